"""How one task is adapted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distmeta.core.types import Batch, Params

Fast = Any
"""Adapted state, opaque to everybody but its learner: a nest of dicts, tuples and tensors (weights, prototypes)."""


@dataclass(frozen=True)
class Stage:
    """What tells one inner step from another, so that steps that run the same operations can share a compiled graph.

    Attributes:
        kind: Steps of the same kind run the same operations; kinds are numbered from 0.
        rows: Support examples that the step looks at; None for all.
        scalars: Numbers of this step alone (Adam's bias corrections).
    """

    kind: int = 0
    rows: tuple[int, ...] | None = None
    scalars: tuple[float, ...] = ()

    def select(self, support: Batch, *, axis: int = 0) -> Batch:
        """The support examples of this step; `axis` is that of the examples."""
        if self.rows is None:
            return support
        rows = torch.tensor(self.rows, device=support.inputs.device)
        return support.map(lambda tensor: tensor.index_select(axis, rows))

    def tensor(self, meta: Mapping[str, Tensor]) -> Tensor:
        """The scalars [S] in the type of the meta-parameters."""
        return next(iter(meta.values())).new_tensor(self.scalars)


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
    def stage(self, k: int, num_support: int) -> Stage:
        """What is special about inner step `k` on a support set of this many examples."""

    @abstractmethod
    def advance(self, meta: Params, fast: Fast, support: Batch, kind: int, scalars: Tensor) -> Fast:
        """The adapted state after a step of this kind.

        Args:
            meta: Meta-parameters.
            fast: The state before.
            support: The examples that `Stage.select` picks.
            kind: `Stage.kind`.
            scalars: [S] `Stage.scalars`.
        """

    @abstractmethod
    def predict(self, meta: Params, fast: Fast, support: Batch, inputs: Tensor) -> Tensor:
        """Outputs [B, O] of the adapted learner for `inputs` [B, ...]."""

    @abstractmethod
    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """Outputs of the meta-parameters themselves, un-adapted (joint training)."""

    @abstractmethod
    def displacement(self, meta: Params, fast: Fast) -> Params:
        """`meta - fast` for the meta-parameters that adaptation moves, zero for the rest (Reptile's signal)."""

    def step(self, meta: Params, fast: Fast, support: Batch, k: int) -> Fast:
        """The adapted state after inner step `k`."""
        stage = self.stage(k, support.inputs.shape[0])
        return self.advance(meta, fast, stage.select(support), stage.kind, stage.tensor(meta))

    def walk(self, meta: Params, support: Batch) -> Iterator[tuple[int, Fast]]:
        """The adapted state after k = 0, 1, ..., K inner steps, as (k, state)."""
        fast = self.start(meta, support)
        yield 0, fast
        for k in range(self.num_steps):
            fast = self.step(meta, fast, support, k)
            yield k + 1, fast

    def adapt(self, meta: Params, support: Batch) -> Fast:
        """The adapted state after all inner steps."""
        fast: Fast = None
        for _, state in self.walk(meta, support):  # one state at a time: all of them may not fit into memory
            fast = state
        return fast
