"""Data types shared by all packages: batches, episodes, task specs, updates, reports.

An `Episode` holds either one task (no task axis) or a shard of T tasks (leading axis T on every tensor). Task sources
build the latter, learners are written for the former, and the engine converts between them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

Params = dict[str, Tensor]
"""A flat mapping `dotted.name -> Tensor`."""


@dataclass(frozen=True)
class Batch:
    """Examples, with a leading batch axis. `targets` is None if they are unlabelled."""

    inputs: Tensor
    targets: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor."""
        return Batch(function(self.inputs), None if self.targets is None else function(self.targets))

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order, the inverse of `rebuild`."""
        return (self.inputs,) if self.targets is None else (self.inputs, self.targets)

    def rebuild(self, tensors: Sequence[Tensor]) -> Batch:
        """The same structure with other tensors."""
        remaining = iter(tensors)
        return self.map(lambda _: next(remaining))


@dataclass(frozen=True)
class Term:
    """One term of the outer loss: `weight * objective(batch)`.

    Attributes:
        batch: The examples.
        weight: Weight of this term.
        objective: Name of the objective (see `distmeta.methods.objectives`).
        adapted: Whether to evaluate the adapted parameters (the usual query loss) or the meta-parameters (joint
            training).
    """

    batch: Batch
    weight: float = 1.0
    objective: str = "cross_entropy"
    adapted: bool = True


@dataclass(frozen=True)
class Episode:
    """Support set and outer loss terms of a task, or of T stacked tasks."""

    support: Batch
    query: tuple[Term, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Episode:
        """Apply `function` to every tensor, e.g. to select a task or to move to a device."""
        return Episode(
            self.support.map(function),
            tuple(replace(term, batch=term.batch.map(function)) for term in self.query),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order, the inverse of `rebuild`."""
        batches = (self.support, *(term.batch for term in self.query))
        return tuple(tensor for batch in batches for tensor in batch.tensors())

    def rebuild(self, tensors: Sequence[Tensor]) -> Episode:
        """The same structure with other tensors."""
        remaining = iter(tensors)
        return self.map(lambda _: next(remaining))

    @property
    def form(self) -> tuple[Any, ...]:
        """Everything but the tensors, hashable: the static part of a key of compiled graphs."""
        terms = ((term.weight, term.objective, term.adapted, term.batch.targets is None) for term in self.query)
        return (self.support.targets is None, *terms)

    @property
    def num_tasks(self) -> int:
        """T, if the episode has a task axis."""
        return int(self.support.inputs.shape[0])


@dataclass(frozen=True)
class TaskSpec:
    """A task as sent to workers, which build its episode from this alone.

    Attributes:
        index: Index of the task within its step.
        seed: 63-bit seed of all random draws of the task.
        split: Split of the task distribution, e.g. `train`.
    """

    index: int
    seed: int
    split: str


@dataclass(frozen=True)
class Shard:
    """Tasks that one worker computes and sums. Its size depends on the configuration, not on the number of workers."""

    index: int
    specs: tuple[TaskSpec, ...]


@dataclass(frozen=True)
class Work:
    """The computation requested for a shard. Throughput is measured for each distinct value.

    Attributes:
        name: Key of the program's handlers: `update`, `evaluate`, ... (`distmeta.program.program.HANDLERS`).
        engine: Engine settings, which may be chosen during the run. Hashable.
    """

    name: str
    engine: Hashable = None


@dataclass(frozen=True)
class Update:
    """Sums over tasks; updates are only ever added.

    Attributes:
        grad: Outer gradient, summed over tasks: one tensor for each meta-parameter.
        weight: Sum of the task weights (by default, the number of tasks).
        metrics: Metrics, summed over tasks.
    """

    grad: Params
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """The meta-parameters of one version."""

    version: int
    params: Params


@dataclass(frozen=True)
class Report:
    """The update of a shard, or of a group of consecutive shards that were added near their workers.

    Attributes:
        version: Version of the snapshot that it was computed from.
        shard: Index of the (first) shard.
        update: Sums over its tasks.
        finite: Whether every entry of the gradient is finite; None if it has not been checked.
        count: Number of shards in the sum: `shard` and the ones after it.
    """

    version: int
    shard: int
    update: Update
    finite: bool | None = None
    count: int = 1

    @property
    def shards(self) -> range:
        """Indices of the shards that the update is the sum of."""
        return range(self.shard, self.shard + self.count)
