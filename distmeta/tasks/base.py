"""Where tasks come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from distmeta.core.seeding import mix
from distmeta.core.types import Episode, TaskSpec

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskSignature:
    """What a network must fit; kept in checkpoints, so that a learner can be loaded where the data is not.

    Attributes:
        input_shape: Shape of one example, e.g. (1, 28, 28).
        num_outputs: Outputs that an adapted learner needs (the number of ways; 1 for scalar regression).
        num_train_outputs: The same during training; another number only for joint training and prototypes.
        objective: Name of the tasks' own loss (`cross_entropy`, `mse`).
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    num_train_outputs: int
    objective: str


class TaskSource(ABC):
    """A distribution over tasks.

    Attributes:
        input_shape, num_outputs, num_train_outputs, objective: See `TaskSignature`.
        seed: The run's seed.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    num_train_outputs: int
    objective: str
    seed: int

    @property
    def signature(self) -> TaskSignature:
        """What a network must fit."""
        return TaskSignature(self.input_shape, self.num_outputs, self.num_train_outputs, self.objective)

    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        """The specs of `count` tasks of one step: a pure function of (seed, split, step, index)."""
        return tuple(TaskSpec(i, mix(self.seed, split, step, i), split) for i in range(count))

    @abstractmethod
    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        """Make the tasks: every tensor has a leading axis T = len(specs).

        Support rows are in random order, so that consecutive rows make fair inner mini-batches. The result depends on
        each spec alone, never on the others it is made with.
        """
