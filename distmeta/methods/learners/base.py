"""Interface of learners: pure functions that adapt to one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distmeta.core.types import Batch, Params

Fast = Any
"""Adapted state (fast weights, prototypes): a pytree of dicts, tuples and tensors that only its learner interprets."""


@dataclass(frozen=True)
class Stage:
    """What one inner step does differently from others. Steps of one kind share a compiled graph.

    Attributes:
        kind: Steps of the same kind run the same operations; kinds are numbered from 0.
        rows: Indices of the support examples that the step uses; None for all.
        scalars: Numbers that only this step uses (Adam's bias corrections).
    """

    kind: int = 0
    rows: tuple[int, ...] | None = None
    scalars: tuple[float, ...] = ()

    def select(self, support: Batch, *, axis: int = 0) -> Batch:
        """The support examples that this step uses; `axis` is the axis of the examples."""
        if self.rows is None:
            return support
        rows = torch.tensor(self.rows, device=support.inputs.device)
        return support.map(lambda tensor: tensor.index_select(axis, rows))

    def tensor(self, meta: Mapping[str, Tensor]) -> Tensor:
        """The scalars [S] in the type of the meta-parameters."""
        return next(iter(meta.values())).new_tensor(self.scalars)


class Learner(ABC):
    """Pure functions for one task; the engine lifts them to functions of T tasks.

    Adaptation is `start`, then `step` for k = 0 .. num_steps - 1, then `predict`. Arguments are never changed.

    Shapes: N support examples, B inputs, O outputs, S scalars.

    Attributes:
        num_steps: K, the number of inner steps.
    """

    num_steps: int

    @abstractmethod
    def init(self, seed: int) -> Params:
        """Initial meta-parameters, a pure function of the seed."""

    @abstractmethod
    def start(self, meta: Params, support: Batch) -> Fast:
        """The adapted state before the first inner step."""

    @abstractmethod
    def stage(self, k: int, num_support: int) -> Stage:
        """The stage of inner step `k` for a support set of `num_support` examples."""

    @abstractmethod
    def advance(self, meta: Params, fast: Fast, support: Batch, kind: int, scalars: Tensor) -> Fast:
        """Take one inner step.

        Args:
            meta: Meta-parameters.
            fast: The adapted state before the step.
            support: The support examples that `Stage.select` returns.
            kind: `Stage.kind`.
            scalars: [S] `Stage.scalars`.

        Returns:
            The adapted state after the step.
        """

    @abstractmethod
    def predict(self, meta: Params, fast: Fast, support: Batch, inputs: Tensor) -> Tensor:
        """Outputs [B, O] of the adapted learner for `inputs` [B, ...]."""

    @abstractmethod
    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """Outputs [B, O] of the meta-parameters without adaptation (joint training)."""

    @abstractmethod
    def displacement(self, meta: Params, fast: Fast) -> Params:
        """`meta - fast` for meta-parameters that adaptation changes, zero for the others (Reptile's outer signal)."""

    def step(self, meta: Params, fast: Fast, support: Batch, k: int) -> Fast:
        """Take inner step `k` on the whole support set, of which the step's stage selects examples."""
        stage = self.stage(k, support.inputs.shape[0])
        return self.advance(meta, fast, stage.select(support), stage.kind, stage.tensor(meta))

    def walk(self, meta: Params, support: Batch) -> Iterator[tuple[int, Fast]]:
        """Yield (k, adapted state after k inner steps) for k = 0, 1, ..., K."""
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
