"""What a worker is asked: tasks as specs, shards of them, the kind of work. Loads no torch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distmeta.core.types import Params


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
    """Tasks that one worker computes and sums. Its size depends on the configuration, not on the number of workers.

    Attributes:
        index: Index within the step.
        specs: Its tasks.
        carry: State of the estimator for these tasks, from the shard of this index of the step before: [T, ...] each.
    """

    index: int
    specs: tuple[TaskSpec, ...]
    carry: Params = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Work:
    """The computation requested for a shard. Throughput is measured for each distinct value.

    Attributes:
        name: Key of the program's handlers: `update`, `evaluate`, ... (`distmeta.program.program.HANDLERS`).
        engine: Engine settings, which may be chosen during the run. Hashable.
    """

    name: str
    engine: Hashable = None
