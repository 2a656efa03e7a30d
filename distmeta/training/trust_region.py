"""Outer steps within a trust region: TRPO (Schulman et al. 2015, arXiv 1502.05477, appendix C) on adapted policies.

    g      = gradient of the outer loss                           one round of requests: `record`
    F x    = g,  x by conjugate gradient                          a round for each product:  `curvature`
    s      = -sqrt(2 max_kl / (x . F x)) x                        the longest step within the region, to second order
    theta <- theta + shrink^i s                                   a round for each i = 0, 1, ...: `trial`

with the first i whose step lowers the loss on the same trajectories and keeps the mean divergence within `max_kl`; no
step if there is none. F is the Fisher matrix of the adapted policies plus `damping` times the identity. The server
takes minus the step for a gradient, at rate 1.

Vectors are in float64 on the driver, and are summed by numpy, whose bits do not depend on the number of threads.

Deviations from the code of MAML (rllab): products with F are exact, not central differences; the estimates of all tasks
are means over the steps of their trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.config.outer import TrustRegionConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params, Update, Work
from distmeta.program.recorded import CURVATURE, RECORD, STEP, TRIAL, VECTOR
from distmeta.runtime.executor import Executor
from distmeta.server import ParameterServer
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Step
from distmeta.training.rounds import InRounds, Rounds, check_trajectories

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Move:
    """A step that was tried.

    Attributes:
        step: By parameter; empty for no step.
        loss: Outer loss after it, on the same trajectories.
        kl: Divergence of the adapted policies.
        backtracks: Longer ones that were refused.
    """

    step: Params
    loss: float
    kl: float
    backtracks: int


class TrustRegion(InRounds):
    """Each step is several rounds: a gradient, the direction of the step, and trials of its size."""

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        assert config.outer.trust_region is not None
        super().__init__(config, source, server, executor)
        self._region: TrustRegionConfig = config.outer.trust_region

    @override
    def step(self, work: Work) -> Step:
        rounds = self._rounds(self.server.pull(), self.server.version, work)
        total = rounds.ask(RECORD)
        grad = {name: tensor / total.weight for name, tensor in total.grad.items()}
        move = self._move(rounds, grad, total.metrics["loss"] / total.weight)
        norm = math.sqrt(float(np.sum(_flat(grad) ** 2)))
        negative = {name: -tensor for name, tensor in move.step.items()}
        means = {name: value / total.weight for name, value in total.metrics.items()}
        metrics = {**means, "kl": move.kl, "improvement": means["loss"] - move.loss}
        record = self._make_step(Update(negative, 1.0, metrics))
        outer = {**record.outer, "grad_norm": norm, "backtracks": float(move.backtracks)}
        tasks = self._config.train.tasks_per_step
        return Step(replace(record, weight=total.weight, outer=outer), rounds.results, tasks)

    def _move(self, rounds: Rounds, grad: Params, loss: float) -> Move:
        """The longest of the steps along the direction that is allowed."""
        region, right = self._region, _flat(grad)
        direction, curved = self._solve(rounds, grad, right)
        size = float(np.sum(direction * curved))
        if not size > 0.0:
            return Move({}, loss, 0.0, 0)
        longest = -math.sqrt(2 * region.max_kl / size) * direction
        for backtracks in range(region.backtracks):
            step = _named(longest * region.shrink**backtracks, grad)
            tried = rounds.ask(TRIAL, {STEP + name: tensor for name, tensor in step.items()})
            after, kl = (tried.metrics[name] / tried.weight for name in ("loss", "kl"))
            if after < loss and kl <= region.max_kl:  # neither holds for a number that is not finite
                return Move(step, after, kl, backtracks)
        return Move({}, loss, 0.0, region.backtracks)

    def _solve(self, rounds: Rounds, like: Params, right: Vector) -> tuple[Vector, Vector]:
        """The x with F x = right by conjugate gradient (Hestenes & Stiefel 1952) from zero, and F x."""
        region = self._region
        x, curved_x = np.zeros_like(right), np.zeros_like(right)
        residual = direction = right
        start = size = float(np.sum(right * right))
        for _ in range(region.cg_steps):
            if size <= region.cg_tolerance**2 * start:
                break
            vector = {VECTOR + name: tensor for name, tensor in _named(direction, like).items()}
            total = rounds.ask(CURVATURE, vector)
            product = _flat({name: total.grad[name] for name in like}) / total.weight + region.damping * direction
            curvature = float(np.sum(direction * product))
            if curvature <= 0.0:
                break
            length = size / curvature
            x, curved_x = x + length * direction, curved_x + length * product
            residual = residual - length * product
            after = float(np.sum(residual * residual))
            direction, size = residual + (after / size) * direction, after
        return x, curved_x


def _flat(params: Params) -> Vector:
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in params.values()])


def _named(vector: Vector, like: Params) -> Params:
    """The parts of a vector by name, in the types of the parameters."""
    parts = np.split(vector, np.cumsum([tensor.numel() for tensor in like.values()])[:-1])
    return {
        name: torch.from_numpy(part.copy()).reshape(tensor.shape).to(tensor.dtype)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def check_trust_region(config: RunConfig, source: TaskSource, buffers: Params) -> None:
    """Check that a run has policies that a trust region can bound.

    Raises:
        UserError: It has none.
    """
    check_trajectories(config, source, buffers)
    if any(term.at == "each" for term in config.algorithm.terms):
        what = "a term at 'each' inner step has policies that the trust region does not bound"
        raise UserError(what, where="algorithm.terms", allowed="terms at 'last' or 'meta', or outer.trust_region null")
