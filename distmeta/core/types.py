"""Data types shared by all packages: batches, episodes, task specs, updates, reports.

Data names roles, methods name what they do with them: an episode is a mapping of roles (`support`, `query`, `source`,
...) to batches, and a batch a mapping of names (`inputs`, `targets`, `mask`, ...) to tensors.

An `Episode` holds either one task (no task axis) or a shard of T tasks (leading axis T on every tensor). Task sources
build the latter, learners are written for the former, and the engine converts between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from distmeta.core.work import Shard, TaskSpec, Work

__all__ = [
    "Batch",
    "Episode",
    "Params",
    "Report",
    "Shard",
    "Snapshot",
    "TaskSpec",
    "TextSizes",
    "TokenIds",
    "Update",
    "Work",
]

Params = dict[str, Tensor]
"""A flat mapping `dotted.name -> Tensor`."""
SUPPORT, QUERY, SOURCE, OUTSIDE, LABELS = "support", "query", "source", "outside", "labels"
"""Roles: what a task is adapted to, what the adapted learner is scored on, labelled examples of all training classes
together, with targets of their own (transfer learning), texts that belong to none of a task's classes, without targets,
and the names of a task's classes, in the order of the targets."""
UNLABELLED, ROTATION, DOMAINS = "unlabelled", "rotation", "domains"
"""Roles of adaptation without labels: examples without targets (of an evaluation task: its queries), turned images,
whose targets are their quarter turns, and labelled and unlabelled examples together, whose targets (0, 1) say which."""
EPISODES = "episodes"
"""Name of a tensor [T, N, H, E] of trajectories that are trials of E episodes: 1 where a step belongs to an episode. A
policy with a memory reads a trial in order; it is not asked about single steps of it."""
TRAJECTORY, REMEMBER = "trajectory", "remember"
"""Roles of continual learning: a stream of examples, class after class, and what must not be forgotten meanwhile. In
training, both have targets among all training classes."""


class Batch(dict[str, Tensor]):
    """Examples: named tensors with a leading batch axis. It is not changed once it is made.

    Args:
        inputs: [B, ...].
        targets: [B, ...]; None if the examples are unlabelled.
        others: Further tensors of the examples, by name.
    """

    def __init__(self, inputs: Tensor, targets: Tensor | None = None, **others: Tensor) -> None:
        super().__init__(inputs=inputs, **({} if targets is None else {"targets": targets}), **others)

    @property
    def inputs(self) -> Tensor:
        return self["inputs"]

    @property
    def targets(self) -> Tensor | None:
        return self.get("targets")

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor."""
        return Batch(**{name: function(tensor) for name, tensor in self.items()})

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order, the inverse of `rebuild`."""
        return tuple(self.values())

    def rebuild(self, tensors: Sequence[Tensor]) -> Batch:
        """The same structure with other tensors."""
        return Batch(**dict(zip(self, tensors, strict=True)))


@dataclass(frozen=True)
class TextSizes:
    """How large a task of texts is: a function of the task alone.

    Attributes:
        length: Tokens that each of its texts is padded to.
        places: Tokens that all texts of a role fit into, end to end, by role.
    """

    length: int
    places: tuple[tuple[str, int], ...]


Act = Callable[[Tensor], Tensor]
"""The policies at hand of T tasks: observations [T, N, ...] -> outputs [T, N, O] of their networks.

Calls are the steps of the same trajectories, in order: policies with a memory remember the calls before. Each time that
a supply is called, memories are empty.
"""


class Supply(Protocol):
    """What interactive tasks answer with: examples that depend on the policy at hand.

    A role of such tasks holds what the examples are collected from, a row for each trajectory: environments, with their
    first observations as `inputs`.
    """

    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        """Collect the examples of a role: a pure function of the tasks, their seeds and `act`.

        Args:
            tasks: T tasks, with seeds.
            role: The role.
            k: Number of the inner step that they are for, so that each step has random draws of its own; 0 for what is
                scored, so that scores after different numbers of steps share theirs.
            act: The policies.

        Returns:
            [T, N, ...] each, N as in the rows of the role.
        """


@dataclass(frozen=True)
class Episode:
    """A task, or T stacked tasks.

    Attributes:
        roles: Examples by role.
        seeds: int64 [T] seeds of the tasks' own random draws (none for one task: []); None if nothing draws.
        sizes: For T tasks of texts [T, B, L] that are padded on the right to the longest of them: how large each task
            is by itself. None if the examples are no texts.
        supply: For interactive tasks: collects the examples of a role with the policy at hand. None if the roles hold
            the examples.
    """

    roles: Mapping[str, Batch]
    seeds: Tensor | None = None
    sizes: tuple[TextSizes, ...] | None = None
    supply: Supply | None = None

    def __getitem__(self, role: str) -> Batch:
        return self.roles[role]

    @property
    def support(self) -> Batch:
        return self.roles[SUPPORT]

    @property
    def query(self) -> Batch:
        return self.roles[QUERY]

    def only(self, roles: Collection[str]) -> Episode:
        """The same tasks without other roles."""
        return replace(self, roles={role: batch for role, batch in self.roles.items() if role in roles})

    def select(self, tasks: Sequence[int]) -> Episode:
        """Some of the T tasks, in the given order.

        Texts are cut to the length of the longest of these tasks; names of classes are not.

        Args:
            tasks: Positions on the task axis.
        """
        rows = list(tasks)
        chosen = self.map(lambda tensor: tensor[rows])
        if self.sizes is None:
            return chosen
        sizes = tuple(self.sizes[task] for task in rows)
        longest = max(size.length for size in sizes)
        roles = {
            role: batch if role == LABELS else Batch(**{**batch, "inputs": batch.inputs[..., :longest].contiguous()})
            for role, batch in chosen.roles.items()
        }
        return replace(chosen, roles=roles, sizes=sizes)

    def map(self, function: Callable[[Tensor], Tensor]) -> Episode:
        """Apply `function` to every tensor, e.g. to move to a device; `sizes` stay as they are (see `select`)."""
        roles = {role: batch.map(function) for role, batch in self.roles.items()}
        return replace(self, roles=roles, seeds=None if self.seeds is None else function(self.seeds))

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in a fixed order, the inverse of `rebuild`."""
        examples = tuple(tensor for batch in self.roles.values() for tensor in batch.values())
        return examples if self.seeds is None else (*examples, self.seeds)

    def rebuild(self, tensors: Sequence[Tensor]) -> Episode:
        """The same structure with other tensors."""
        remaining = iter(tensors)
        return self.map(lambda _: next(remaining))

    @property
    def form(self) -> tuple[Any, ...]:
        """Everything but the tensors, hashable: the static part of a key of compiled graphs."""
        sizes = tuple(dict.fromkeys(self.sizes or ()))
        return (self.seeds is not None, sizes, *((role, *batch) for role, batch in self.roles.items()))

    @property
    def num_tasks(self) -> int:
        """T, if the episode has a task axis."""
        return int(self.tensors()[0].shape[0])


@dataclass(frozen=True)
class TokenIds:
    """The token ids of texts: of what tasks contain, or of what a network knows.

    Attributes:
        count: Ids are below it.
        pad_id: Id of padding, which no text contains.
        num_closing: Special tokens that end every text of tasks.
    """

    count: int
    pad_id: int
    num_closing: int = 0


@dataclass(frozen=True)
class Update:
    """Sums over tasks; updates are only ever added.

    Attributes:
        grad: Outer gradient, summed over tasks: one tensor for each meta-parameter.
        weight: Sum of the task weights (by default, the number of tasks).
        metrics: Metrics, summed over tasks.
        buffers: Running statistics after the tasks, summed over tasks.
    """

    grad: Params
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    buffers: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """The meta-parameters of one version.

    Attributes:
        version: Number of outer steps.
        params: Meta-parameters.
        buffers: Running statistics of the network, which no gradient moves.
        extra: Further vectors that the work needs, by name.
    """

    version: int
    params: Params
    buffers: Params = field(default_factory=dict)
    extra: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The update of a shard, or of a group of consecutive shards that were added near their workers.

    Attributes:
        version: Version of the snapshot that it was computed from.
        shard: Index of the (first) shard.
        update: Sums over its tasks.
        finite: Whether every entry of the gradient is finite; None if it has not been checked.
        count: Number of shards in the sum: `shard` and the ones after it.
        carries: State of the estimator after the shards, by index of the shard.
    """

    version: int
    shard: int
    update: Update
    finite: bool | None = None
    count: int = 1
    carries: Mapping[int, Params] = field(default_factory=dict)

    @property
    def shards(self) -> range:
        """Indices of the shards that the update is the sum of."""
        return range(self.shard, self.shard + self.count)
