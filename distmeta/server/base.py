"""What every server has: meta-parameters, an outer optimizer, a version; and the words it speaks with."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.tensors import all_finite, cloned
from distmeta.core.types import Params, Report, Snapshot, Update
from distmeta.server.outer import OuterOptimizer, State


class StepError(DistmetaError):
    """The server cannot step: shards are missing, or their sum is of no use."""


class Verdict(Enum):
    """What became of a report.

    Attributes:
        ACCEPTED: It is in the next step.
        STALE: It was computed from another version, or from one that is too old.
        DUPLICATE: Its shard has already been accepted or dropped.
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
        outer: `grad_norm`, `clipped`, `lr` of the outer step; `dropped`, if the step went without some shards; of the
            asynchronous server also `staleness_mean`, `staleness_max`.
    """

    version: int
    weight: float
    metrics: Mapping[str, float]
    outer: Mapping[str, float]


class Server(ABC):
    """The meta-parameters and how they move. All methods may be called from any thread."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Steps made since the first meta-parameters."""

    @abstractmethod
    def pull(self) -> Snapshot:
        """A copy of the present meta-parameters."""

    @abstractmethod
    def averaged(self) -> Params:
        """A copy of the averaged meta-parameters, or of the present ones where averaging is off."""

    @abstractmethod
    def push(self, report: Report) -> Verdict:
        """Take a shard's sums; they must not change before the next step.

        Raises:
            ValueError: The gradient names an unknown parameter, or has another shape or type than it.
        """

    @abstractmethod
    def drop(self, shard: int) -> None:
        """Go without a shard."""

    @abstractmethod
    def step(self, num_shards: int) -> StepRecord:
        """Make the next version from the updates that have been accepted.

        Raises:
            StepError: Shards are missing, or their sum is of no use. Nothing is changed.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """Everything the following versions depend on, copied: tensors and scalars by name (see `OuterOptimizer`)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state; updates that have arrived are dropped.

        Raises:
            UserError: The state does not fit these parameters or this optimizer. Nothing is changed.
        """


class HoldingServer(Server):
    """A server that holds its meta-parameters itself, on the CPU.

    Args:
        params: The first meta-parameters (version 0); copied.
        config: How to step.
        total_steps: Steps of the whole run, for the schedule.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        self._optimizer = OuterOptimizer(params, config, total_steps)
        self._room: Params = {}  # for the mean: the memory of one step serves the next
        self._lock = threading.Lock()

    @property
    def version(self) -> int:
        """See `Server.version`."""
        return self._optimizer.num_steps

    def pull(self) -> Snapshot:
        """See `Server.pull`."""
        with self._lock:
            return Snapshot(self.version, cloned(self._optimizer.params))

    def averaged(self) -> Params:
        """See `Server.averaged`."""
        with self._lock:
            return cloned(self._optimizer.params if self._optimizer.average is None else self._optimizer.average)

    def state_dict(self) -> State:
        """See `Server.state_dict`."""
        with self._lock:
            return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Server.load_state_dict`."""
        with self._lock:
            self._optimizer.load_state_dict(state)
            self._forget()

    @abstractmethod
    def _forget(self) -> None:
        """Let all updates go. Called with the lock held."""

    def _mean(self, total: Update) -> Params:
        """The sum over its weight, in memory that the next mean is written to."""
        if not total.weight > 0.0:
            raise StepError(f"version {self.version} cannot step: the weights sum to {total.weight}")
        mean: Params = {}
        for name, grad in total.grad.items():
            if name not in self._room:
                self._room[name] = torch.empty_like(self._optimizer.params[name])
            mean[name] = torch.div(grad, total.weight, out=self._room[name])
        if not all_finite(mean):
            raise StepError(f"version {self.version} cannot step: the sum of finite updates overflows")
        return mean

    def _advance(
        self, total: Update, mean: Params, about: Mapping[str, float], norm: float | None = None
    ) -> StepRecord:
        outer = self._optimizer.step(mean, norm)
        self._forget()
        metrics = {name: value / total.weight for name, value in total.metrics.items()}
        return StepRecord(self.version, total.weight, metrics, {**outer, **about})


def check_update(shard: int, update: Update, params: Mapping[str, Tensor]) -> None:
    """Refuse an update that does not fit the parameters, of which only shapes and types are looked at.

    Raises:
        ValueError: The gradient names an unknown parameter, or has another shape or type than it.
    """
    for name, grad in update.grad.items():
        param = params.get(name)
        if param is None or grad.shape != param.shape or grad.dtype != param.dtype:
            expected = "no such parameter" if param is None else f"expected {param.dtype} {list(param.shape)}"
            found = f"{grad.dtype} {list(grad.shape)}"
            raise ValueError(f"shard {shard}: gradient '{name}' is {found}; {expected}")


def is_finite(update: Update, known: bool | None) -> bool:
    """Whether the weight and every entry are finite; `known` tells it of the entries, where somebody has looked."""
    return math.isfinite(update.weight) and (all_finite(update.grad) if known is None else known)
