"""Objectives: what inner phases and query terms minimise.

An objective gets the forward function instead of its outputs, because some objectives apply it to transformed inputs
(rotation prediction). It returns the loss and metrics to report, all scalars.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config.interaction import PolicyGradientConfig
from distmeta.config.python import ObjectiveName
from distmeta.core.code import load_target
from distmeta.core.errors import UserError, nearest
from distmeta.core.policies import HALF_LOG_2PI
from distmeta.core.types import Batch
from distmeta.methods.policy_gradient import PolicyGradient

Forward = Callable[[Tensor], Tensor]
Objective = Callable[[Forward, Batch], tuple[Tensor, dict[str, Tensor]]]


def cross_entropy(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy of [B, O] logits against int64 targets [B]; reports `accuracy`."""
    targets = _targets(batch, "cross_entropy")
    logits = forward(batch.inputs)
    loss = F.cross_entropy(logits, targets)
    return loss, {"accuracy": (logits.argmax(-1) == targets).to(logits.dtype).mean()}


def mse(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of [B, O] outputs against targets [B, O]."""
    targets = _targets(batch, "mse")
    return F.mse_loss(forward(batch.inputs), targets), {}


def entropy(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean entropy of the predicted distribution over classes; needs no targets (TENT, Wang et al. 2021)."""
    log_p = torch.log_softmax(forward(batch.inputs), dim=-1)
    return -(log_p.exp() * log_p).sum(-1).mean(), {}


def gaussian(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean negative log-likelihood of targets [B, O] under normal distributions, whose means and standard deviations
    are the outputs [B, 2 O]; reports `log_likelihood` of a number and the squared error of the mean, `mse`.
    """
    targets = _targets(batch, "gaussian")
    outputs = forward(batch.inputs)
    if outputs.shape[-1] != 2 * targets.shape[-1]:
        raise UserError(
            f"it needs mean and deviation of each target, {2 * targets.shape[-1]} outputs, not {outputs.shape[-1]}",
            where="objective 'gaussian'",
            allowed="regression by a head of such outputs (neural_process: 'distribution')",
        )
    mean, deviation = outputs.chunk(2, -1)
    error = targets - mean
    log_likelihood = -((error / deviation).square() / 2 + deviation.log() + HALF_LOG_2PI).mean()
    return -log_likelihood, {"log_likelihood": log_likelihood, "mse": error.square().mean()}


def coral(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared distance of the covariances of the outputs of two domains, over 4 d^2 for d outputs (Deep CORAL, Sun &
    Saenko 2016, arXiv 1607.01719); targets [B] are the domain of each example, 0 or 1, two or more of each.
    """
    targets = _targets(batch, "coral")
    outputs = forward(batch.inputs)
    covariances = []
    for domain in range(2):
        of_domain = (targets == domain).to(outputs.dtype)[:, None]
        centred = (outputs - (of_domain * outputs).sum(0) / of_domain.sum()) * of_domain
        covariances.append(centred.T @ centred / (of_domain.sum() - 1))
    distance = (covariances[0] - covariances[1]).square().sum()
    return distance / (4 * outputs.shape[-1] ** 2), {}


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "entropy": entropy,
    "gaussian": gaussian,
    "coral": coral,
    "policy_gradient": PolicyGradient(PolicyGradientConfig()),
}
KINDS: dict[str, Callable[[Any, str], Objective]] = {
    "policy_gradient": lambda config, where: PolicyGradient(config),
    "python": lambda config, where: partial(load_target(config.target, config.sha256, where), **config.options),
}
"""Factories of objectives with settings, by `kind`."""
COLLECTED = ("policy_gradient",)
"""Objectives of examples that are collected with the policy at hand: what interactive tasks name as theirs."""
LABEL_FREE = ("coral", "entropy")
"""Objectives that compare outputs with no targets, so that they take a head of any number of outputs."""


def _targets(batch: Batch, objective: str) -> Tensor:
    """The targets of examples.

    Raises:
        UserError: They have none: unlabelled examples, or trajectories.
    """
    if batch.targets is None:
        what = "the examples have no targets"
        raise UserError(what, where=f"objective '{objective}'", allowed="null (the tasks' own), or a role with targets")
    return batch.targets


def find_objective(name: ObjectiveName, where: str) -> Objective:
    """Look an objective up by name, or make one of settings; `where` is the configuration field that names it."""
    if not isinstance(name, str):
        return KINDS[name.kind](name, where)
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective '{name}'", where=where, allowed=nearest(name, OBJECTIVES))
    return OBJECTIVES[name]
