"""The parameter server: names, tensors, weights and versions, and nothing else.

It knows no algorithm, no model and no Ray. Workers' sums arrive in any order and from any thread; they are kept apart
until the step, which adds them in the order of shards:

    g = (sum over shards in order of grad_s) / (sum over shards of weight_s)

so that the bits of the result do not depend on who was faster.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from distmeta.config.algorithm import OuterConfig
from distmeta.errors import DistmetaError
from distmeta.server.outer import OuterOptimizer, State
from distmeta.tensors import all_finite, cloned
from distmeta.types import Params, Report, Snapshot, Update


class StepError(DistmetaError):
    """The server cannot step: shards are missing, or their sum is of no use."""


class Verdict(Enum):
    """What became of a report.

    Attributes:
        ACCEPTED: It is kept for the next step.
        STALE: It was computed from another version.
        DUPLICATE: Its shard has already been accepted for this version.
        NONFINITE: An entry or the weight is infinite or not a number. It is not kept; what to do is the caller's.
    """

    ACCEPTED = "accepted"
    STALE = "stale"
    DUPLICATE = "duplicate"
    NONFINITE = "nonfinite"


@dataclass(frozen=True)
class StepRecord:
    """What a step did.

    Attributes:
        version: The version it made.
        weight: Total weight of the updates.
        metrics: The workers' metrics, averaged: sums over the total weight.
        outer: `grad_norm`, `clipped`, `lr` of the outer step.
    """

    version: int
    weight: float
    metrics: Mapping[str, float]
    outer: Mapping[str, float]


class ParameterServer:
    """Holds the meta-parameters on the CPU. All methods may be called from any thread.

    Args:
        params: The first meta-parameters (version 0); copied.
        config: How to step.
        total_steps: Steps of the whole run, for the schedule.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        self._optimizer = OuterOptimizer(params, config, total_steps)
        self._updates: dict[int, Update] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        """Steps made since the first meta-parameters."""
        return self._optimizer.num_steps

    def pull(self) -> Snapshot:
        """A copy of the present meta-parameters."""
        with self._lock:
            return Snapshot(self.version, cloned(self._optimizer.params))

    def averaged(self) -> Params:
        """A copy of the averaged meta-parameters, or of the present ones where averaging is off."""
        with self._lock:
            return cloned(self._optimizer.params if self._optimizer.average is None else self._optimizer.average)

    def push(self, report: Report) -> Verdict:
        """Take a shard's sums.

        Raises:
            ValueError: The gradient names an unknown parameter, or has another shape or type than it.
        """
        for name, grad in report.update.grad.items():
            param = self._optimizer.params.get(name)
            if param is None or grad.shape != param.shape or grad.dtype != param.dtype:
                expected = "no such parameter" if param is None else f"expected {param.dtype} {list(param.shape)}"
                found = f"{grad.dtype} {list(grad.shape)}"
                raise ValueError(f"shard {report.shard}: gradient '{name}' is {found}; {expected}")
        finite = math.isfinite(report.update.weight) and all_finite(report.update.grad)
        with self._lock:
            if report.version != self.version:
                return Verdict.STALE
            if report.shard in self._updates:
                return Verdict.DUPLICATE
            if not finite:
                return Verdict.NONFINITE
            self._updates[report.shard] = report.update
            return Verdict.ACCEPTED

    def step(self, num_shards: int) -> StepRecord:
        """Add the updates of shards 0 to `num_shards - 1` in this order, divide by their weight, make the next version.

        Raises:
            StepError: Other shards than these have been accepted, or their sum is of no use. Nothing is changed.
        """
        with self._lock:
            missing = [shard for shard in range(num_shards) if shard not in self._updates]
            surplus = sorted(shard for shard in self._updates if not 0 <= shard < num_shards)
            if missing or surplus or num_shards < 1:
                raise StepError(
                    f"version {self.version} cannot step with {len(self._updates)} updates for {num_shards} shards: "
                    f"missing shards {missing}, unexpected shards {surplus}"
                )
            total = _sum([self._updates[shard] for shard in range(num_shards)])
            if not total.weight > 0.0:
                raise StepError(f"version {self.version} cannot step: the weights sum to {total.weight}")
            mean = {name: grad / total.weight for name, grad in total.grad.items()}
            if not all_finite(mean):
                raise StepError(f"version {self.version} cannot step: the sum of finite updates overflows")
            outer = self._optimizer.step(mean)
            self._updates.clear()
            metrics = {name: value / total.weight for name, value in total.metrics.items()}
            return StepRecord(self.version, total.weight, metrics, outer)

    def state_dict(self) -> State:
        """Everything the following versions depend on, copied: tensors and scalars by name (see `OuterOptimizer`)."""
        with self._lock:
            return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state; updates that have arrived are dropped.

        Raises:
            UserError: The state does not fit these parameters or this optimizer. Nothing is changed.
        """
        with self._lock:
            self._optimizer.load_state_dict(state)
            self._updates.clear()


def _sum(updates: Sequence[Update]) -> Update:
    """The sum in the order given. A parameter or metric that some updates lack is summed over those that have it."""
    grads: Params = {}
    metrics: dict[str, float] = {}
    for update in updates:
        for name, grad in update.grad.items():
            local = grad.detach().cpu()
            grads[name] = grads[name] + local if name in grads else local
        for name, value in update.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return Update(grads, sum(update.weight for update in updates), metrics)
