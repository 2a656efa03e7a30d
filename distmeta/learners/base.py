"""How one task is adapted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from distmeta.types import Batch, Params

Fast = Any
"""Adapted state, opaque to everybody but its learner: a nest of dicts, tuples and tensors (weights, prototypes)."""


class Learner(ABC):
    """Pure functions for one task; the engine lifts them to many.

    `start`, then `step` for k = 0 .. num_steps - 1, then `predict`. Arguments are never changed.

    Attributes:
        num_steps: K, the number of inner steps.
    """

    num_steps: int

    @abstractmethod
    def init(self, seed: int) -> Params:
        """Fresh meta-parameters, a pure function of the seed."""

    @abstractmethod
    def start(self, meta: Params, support: Batch) -> Fast:
        """The adapted state before the first step."""

    @abstractmethod
    def step(self, meta: Params, fast: Fast, support: Batch, k: int) -> Fast:
        """The adapted state after inner step `k`."""

    @abstractmethod
    def predict(self, meta: Params, fast: Fast, support: Batch, inputs: Tensor) -> Tensor:
        """Outputs [B, O] of the adapted learner for `inputs` [B, ...]."""

    @abstractmethod
    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """Outputs of the meta-parameters themselves, un-adapted (joint training)."""

    @abstractmethod
    def displacement(self, meta: Params, fast: Fast) -> Params:
        """`meta - fast` for the meta-parameters that adaptation moves, zero for the rest (Reptile's signal)."""

    def adapt(self, meta: Params, support: Batch) -> Fast:
        """All steps."""
        fast = self.start(meta, support)
        for k in range(self.num_steps):
            fast = self.step(meta, fast, support, k)
        return fast
