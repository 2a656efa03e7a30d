"""The data that flows: batches, episodes, task specs, updates, reports.

Shapes: T tasks, N support examples, Q query examples. An `Episode` holds either one task (no task axis) or a shard of
tasks (leading axis T on every tensor); learners are written for the first, task sources make the second, and the engine
takes one to the other.
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
    """Examples of one role. `targets` is None where they are unlabelled."""

    inputs: Tensor
    targets: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor."""
        return Batch(function(self.inputs), None if self.targets is None else function(self.targets))

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in a fixed order: what `rebuild` takes."""
        return (self.inputs,) if self.targets is None else (self.inputs, self.targets)

    def rebuild(self, tensors: Sequence[Tensor]) -> Batch:
        """The same structure around other tensors."""
        remaining = iter(tensors)
        return self.map(lambda _: next(remaining))


@dataclass(frozen=True)
class Term:
    """One term of the outer loss: `weight * objective(batch)`.

    Attributes:
        batch: The examples.
        weight: Factor of this term.
        objective: Name of the objective (see `distmeta.methods.objectives`).
        adapted: Score the adapted parameters (the usual query loss), or the meta-parameters as they are (joint
            training).
    """

    batch: Batch
    weight: float = 1.0
    objective: str = "cross_entropy"
    adapted: bool = True


@dataclass(frozen=True)
class Episode:
    """A task, or T tasks stacked: what to adapt on and what to be judged by."""

    support: Batch
    query: tuple[Term, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> Episode:
        """Apply `function` to every tensor (for example, take one task or move to a device)."""
        return Episode(
            self.support.map(function),
            tuple(replace(term, batch=term.batch.map(function)) for term in self.query),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in a fixed order: what `rebuild` takes."""
        batches = (self.support, *(term.batch for term in self.query))
        return tuple(tensor for batch in batches for tensor in batch.tensors())

    def rebuild(self, tensors: Sequence[Tensor]) -> Episode:
        """The same structure around other tensors."""
        remaining = iter(tensors)
        return self.map(lambda _: next(remaining))

    @property
    def form(self) -> tuple[Any, ...]:
        """All of it but its tensors, hashable."""
        terms = ((term.weight, term.objective, term.adapted, term.batch.targets is None) for term in self.query)
        return (self.support.targets is None, *terms)

    @property
    def num_tasks(self) -> int:
        """T, where the episode has a task axis."""
        return int(self.support.inputs.shape[0])


@dataclass(frozen=True)
class TaskSpec:
    """A task on the wire: enough for any worker to make its episode.

    Attributes:
        index: Position among the tasks of its step.
        seed: 63-bit seed of every random draw of the task.
        name: The distribution's split it belongs to, e.g. `train`.
    """

    index: int
    seed: int
    name: str


@dataclass(frozen=True)
class Shard:
    """Tasks that are computed and summed together. Its size is set by the config, never by the number of workers."""

    index: int
    specs: tuple[TaskSpec, ...]


@dataclass(frozen=True)
class Work:
    """What a worker is asked to do with a shard. Throughput is measured for each value of its own.

    Attributes:
        name: A row of the program's table: `update`, `evaluate`, ... (`distmeta.program.program.HANDLERS`).
        engine: How to compute it: settings that a run may choose while it runs. Hashable.
    """

    name: str
    engine: Hashable = None


@dataclass(frozen=True)
class Update:
    """Sums over tasks. Adding two updates is the only operation on them.

    Attributes:
        grad: Sum over tasks of the outer signal, one tensor for each meta-parameter.
        weight: Sum of the tasks' weights (their number, unless a method says otherwise).
        metrics: Sums over tasks of the values to report.
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
