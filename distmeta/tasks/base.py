"""Interface of task distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from distmeta.core.seeding import mix
from distmeta.core.types import Episode, Shard, TaskSpec

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskSignature:
    """Input and output sizes of the tasks; saved in checkpoints, so that a learner can be loaded without the data.

    Attributes:
        input_shape: Shape of one example, e.g. (1, 28, 28).
        num_outputs: Outputs of an adapted learner (the number of ways; 1 for scalar regression).
        num_train_outputs: Outputs during training: the number of training classes in joint training, or `train_way`.
        objective: Name of the tasks' loss (`cross_entropy`, `mse`).
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    num_train_outputs: int
    objective: str


class TaskSource(ABC):
    """A distribution over tasks.

    Attributes:
        input_shape: Shape of one example.
        num_outputs: Outputs that an adapted learner needs.
        num_train_outputs: The same during training.
        objective: Name of the tasks' own loss.
        seed: The run's seed.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    num_train_outputs: int
    objective: str
    seed: int

    @property
    def signature(self) -> TaskSignature:
        return TaskSignature(self.input_shape, self.num_outputs, self.num_train_outputs, self.objective)

    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        """Specs of the `count` tasks of a step: a pure function of (seed, split, step, index)."""
        return tuple(TaskSpec(i, mix(self.seed, split, step, i), split) for i in range(count))

    def shards(self, split: str, step: int, count: int, shard_size: int) -> tuple[Shard, ...]:
        """The tasks of one step, cut into shards of fixed size, the last one possibly smaller."""
        specs = self.specs(split, step, count)
        starts = range(0, count, shard_size)
        return tuple(Shard(index, specs[start : start + shard_size]) for index, start in enumerate(starts))

    @abstractmethod
    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        """Build the tasks as one episode whose tensors have a leading axis T = len(specs).

        Support rows are in random order, so that consecutive rows can serve as inner mini-batches. A task depends on
        its own spec alone, not on the others in the call.
        """
