"""What a trust region needs of policies on recorded trajectories (TRPO, Schulman et al. 2015, arXiv 1502.05477).

    kl(theta)     = mean_{n, t}  KL( pi_old(. | s) || pi(. | s; U(theta)) )        U: adaptation
    curvature(v)  = d/d theta ( d kl / d theta . v )   at theta_old                F v, F: Fisher matrix of U(theta)

so that the region bounds how far the adapted policies move, as in the code of MAML. The derivative goes through
adaptation to second order, whatever the estimator of the gradient does.

Shapes: T tasks, N trajectories, H steps, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distmeta.core.policies import kl_divergence
from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.ops import EagerOps
from distmeta.methods.estimators.base import State
from distmeta.methods.policy_gradient import in_order
from distmeta.methods.terms import ADAPTED, Metrics, OuterTerm


class Acted(NamedTuple):
    """A policy on trajectories.

    Attributes:
        outputs: [T, N, H, O].
        batch: The trajectories.
    """

    outputs: Tensor
    batch: Batch


def curvature(ops: EagerOps, terms: Sequence[OuterTerm], meta: Params, tasks: Episode, vector: Params) -> Params:
    """The product of the Fisher matrix with a vector, summed over the tasks.

    Args:
        ops: Operations that are part of the caller's autograd graph (`AutogradOps`).
        terms: The outer loss.
        meta: The meta-parameters that collected the trajectories.
        tasks: T tasks with a recorded supply.
        vector: One tensor for each meta-parameter that moves.
    """
    leaves = {name: meta[name].detach().requires_grad_() for name in vector}
    with torch.enable_grad():
        _, acted = _acted(ops, terms, {**meta, **leaves}, tasks)
        divergence = _divergence([each._replace(outputs=each.outputs.detach()) for each in acted], acted).sum()
        slopes = torch.autograd.grad(divergence, list(leaves.values()), create_graph=True, materialize_grads=True)
        along = torch.stack([(slope * vector[name]).sum() for name, slope in zip(vector, slopes, strict=True)]).sum()
    products = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
    return dict(zip(vector, products, strict=True))


def trial(ops: EagerOps, terms: Sequence[OuterTerm], meta: Params, moved: Params, tasks: Episode) -> Metrics:
    """The outer loss of other meta-parameters on the same trajectories, and their divergence `kl`: [T] each.

    Args:
        ops: Operations.
        terms: The outer loss.
        meta: The meta-parameters that collected the trajectories.
        moved: The other ones.
        tasks: T tasks with a recorded supply.
    """
    with torch.no_grad():
        _, before = _acted(ops, terms, meta, tasks)
        state, after = _acted(ops, terms, moved, tasks)
        return {"loss": ops.score(moved, state, tasks).metrics["loss"], "kl": _divergence(before, after)}


def _acted(ops: EagerOps, terms: Sequence[OuterTerm], meta: Params, tasks: Episode) -> tuple[State, list[Acted]]:
    """The adapted state, and what each term's policy gives for the observations of its trajectories."""
    adapts = any(term.at in ADAPTED for term in terms)
    state = ops.adapt(meta, tasks) if adapts else None
    asked, found = ops.asked(meta, state, tasks), []
    for term in terms:
        batch = asked[term.role]
        outputs = ops.act(meta, state if term.at in ADAPTED else None, tasks, in_order(batch, 1), term.head)
        found.append(Acted(outputs.reshape(*batch["mask"].shape, -1), batch))
    return state, found


def _divergence(before: Sequence[Acted], after: Sequence[Acted]) -> Tensor:
    """Mean divergence [T] over the steps of the trajectories of all terms."""
    total: list[Tensor] = []
    for (old, batch), (new, _) in zip(before, after, strict=True):
        discrete, mask = not batch["actions"].is_floating_point(), batch["mask"]
        divergence = kl_divergence(old, new, discrete=discrete) * mask
        total.append(divergence.sum((1, 2)) / mask.sum((1, 2)))
    return torch.stack(total).mean(0)
