"""The server interface: meta-parameters, an outer optimizer, a version, and the records it returns."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.outer import OuterConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.packed import Layout, Packed
from distmeta.core.tensors import all_finite, cloned
from distmeta.core.types import Params, Report, Snapshot, Update
from distmeta.server.outer import BUFFERS, OuterOptimizer, State, check_fits, copied


class StepError(DistmetaError):
    """The server cannot step: shards are missing, or their sum cannot be used."""


class Verdict(Enum):
    """What the server did with a report.

    Attributes:
        ACCEPTED: It is part of the next step.
        STALE: It was computed from another version, or from one that is too old.
        DUPLICATE: One of its shards has already been accepted or dropped.
        NONFINITE: An entry or the weight is infinite or not a number. It is not kept; the caller decides what to do.
    """

    ACCEPTED = "accepted"
    STALE = "stale"
    DUPLICATE = "duplicate"
    NONFINITE = "nonfinite"


@dataclass(frozen=True)
class StepRecord:
    """Result of an outer step.

    Attributes:
        version: The version it made.
        weight: Total weight of the updates.
        metrics: The workers' metrics, averaged: sums over the total weight.
        outer: `grad_norm`, `clipped`, `lr` of the outer step; `dropped`, if shards were left out; in asynchronous mode
            also `staleness_mean`, `staleness_max`.
    """

    version: int
    weight: float
    metrics: Mapping[str, float]
    outer: Mapping[str, float]


class Weights(ABC):
    """The meta-parameters, as a run reads, saves and loads them, wherever they are held."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Number of outer steps made."""

    @abstractmethod
    def pull(self) -> Snapshot:
        """A copy of the current meta-parameters."""

    @abstractmethod
    def averaged(self) -> Params:
        """A copy of the averaged meta-parameters, or of the current ones where averaging is off."""

    @abstractmethod
    def buffers(self) -> Params:
        """A copy of the running statistics."""

    @abstractmethod
    def state_dict(self) -> State:
        """A copy of everything the following versions depend on: tensors and scalars by name (see `OuterOptimizer`)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state; pending updates are discarded.

        Raises:
            UserError: The state does not fit these parameters or this optimizer. Nothing is changed.
        """


class Server(Weights):
    """The meta-parameters and how they move. All methods may be called from any thread."""

    @abstractmethod
    def push(self, report: Report) -> Verdict:
        """Add the sums of a shard, or of a group of shards; they must not change before the next step.

        Raises:
            ValueError: The gradient names an unknown parameter, or has another shape or type than it; or the report's
                shards are no group (`distmeta.server.tree.level_of`).
        """

    @abstractmethod
    def drop(self, shard: int) -> None:
        """Leave a shard out."""

    @abstractmethod
    def step(self, num_shards: int) -> StepRecord:
        """Make the next version from the accepted updates.

        Raises:
            StepError: Shards are missing, or their sum cannot be used. Nothing is changed.
        """


class InMemoryServer(Server):
    """Keeps the meta-parameters in this process, on the CPU.

    Args:
        params: The first meta-parameters (version 0); copied.
        config: The outer step.
        total_steps: Steps of the whole run, for the schedule.
        buffers: The first running statistics. Each step replaces them by the mean of the updates'.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        config: OuterConfig,
        total_steps: int,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._optimizer = OuterOptimizer(params, config, total_steps)
        self._running = cloned(buffers or {})
        self._mean_buffers: Params = {}  # reused from step to step
        self._lock = threading.Lock()
        self._fitting: set[Layout] = set()

    @property
    @override
    def version(self) -> int:
        return self._optimizer.num_steps

    @override
    def pull(self) -> Snapshot:
        with self._lock:
            return Snapshot(self.version, cloned(self._optimizer.params), cloned(self._running))

    @override
    def averaged(self) -> Params:
        with self._lock:
            return cloned(self._optimizer.params if self._optimizer.average is None else self._optimizer.average)

    @override
    def buffers(self) -> Params:
        with self._lock:
            return cloned(self._running)

    @override
    def state_dict(self) -> State:
        with self._lock:
            running = {BUFFERS + name: tensor.clone() for name, tensor in self._running.items()}
            return {**self._optimizer.state_dict(), **running}

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        with self._lock:
            check_fits(state, BUFFERS, self._running)
            self._optimizer.load_state_dict(state)
            self._running = copied(state, BUFFERS, self._running)
            self._discard_updates()

    def _check(self, report: Report) -> None:
        """Check that an update fits (`check_update`): a packed one once for its layout."""
        grad, buffers = report.update.grad, report.update.buffers
        layout = grad.layout if isinstance(grad, Packed) and not buffers else None
        if layout is None or layout not in self._fitting:
            check_update(report, self._optimizer.params, self._running)
        if layout is not None:
            self._fitting.add(layout)

    @abstractmethod
    def _discard_updates(self) -> None:
        """Forget all pending updates. Called with the lock held."""

    def _advance(self, total: Update, extra: Mapping[str, float]) -> StepRecord:
        """Step with the mean of the updates; `extra` goes into the record. Called with the lock held."""
        outer = self._optimizer.step(self._mean(total))
        self._running |= {name: tensor / total.weight for name, tensor in total.buffers.items()}
        self._discard_updates()
        metrics = {name: value / total.weight for name, value in total.metrics.items()}
        return StepRecord(self.version, total.weight, metrics, {**outer, **extra})

    def _mean(self, total: Update) -> Params:
        if not total.weight > 0.0:
            raise StepError(f"version {self.version} cannot step: the weights sum to {total.weight}")
        mean: Params = {}
        for name, grad in total.grad.items():
            if name not in self._mean_buffers:
                self._mean_buffers[name] = torch.empty_like(self._optimizer.params[name])
            mean[name] = torch.div(grad, total.weight, out=self._mean_buffers[name])
        if not all_finite(mean) or not all_finite(total.buffers):
            raise StepError(f"version {self.version} cannot step: the sum of finite updates overflows")
        return mean


def check_update(report: Report, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Check that an update fits the parameters and running statistics, by names, shapes and types.

    Raises:
        ValueError: It has an unknown name, or a tensor of another shape or type.
    """
    update = report.update
    for kind, tensors, known in (("gradient", update.grad, params), ("buffer", update.buffers, buffers)):
        for name, tensor in tensors.items():
            like = known.get(name)
            if like is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
                expected = "no such parameter" if like is None else f"expected {like.dtype} {list(like.shape)}"
                actual = f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"shard {report.shard}: {kind} '{name}' is {actual}; {expected}")


def is_finite(report: Report) -> bool:
    """Whether the weight and every entry are finite; a worker's own check of the entries is trusted."""
    update = report.update
    return math.isfinite(update.weight) and (all_finite(update.grad) if report.finite is None else report.finite)
