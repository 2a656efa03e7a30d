"""Interface of task distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distmeta.config.bounds import MAX_SHARD_EXAMPLES
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64, mix_indices
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Shard, Supply, TaskSpec, TextSizes, TokenIds

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskSignature:
    """Input and output sizes of the tasks; saved in checkpoints, so that a learner can be loaded without the data.

    Attributes:
        input_shape: Shape of one example, e.g. (1, 28, 28).
        num_outputs: Outputs of an adapted learner (the number of ways; 1 for scalar regression).
        train_outputs: Outputs that each role of training tasks needs, by role: `train_way`, or all training classes.
        objective: Name of the tasks' loss (`cross_entropy`, `mse`).
        tokens: Token ids of the examples; None if they are no texts.
        classes: Names of the outputs, if they are the same classes in all tasks.
        in_order: Whether examples are trials, which a policy with a memory reads step by step.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    train_outputs: dict[str, int]
    objective: str
    tokens: TokenIds | None = None
    classes: tuple[str, ...] | None = None
    in_order: bool = False


@dataclass(frozen=True)
class Declared:
    """What a configuration says about a source of the user's.

    Attributes:
        target: `FILE.py:NAME` of the source.
        max_examples: Examples of the largest task; None if it does not say.
    """

    target: str
    max_examples: int | None

    def check(self, split: str, batches: Mapping[str, Batch], num_tasks: int) -> None:
        """Check the number of examples of tasks that were built together.

        Raises:
            UserError: A task has more than were declared; without a declaration, the tasks have more than fit a shard.
        """
        built = sum(batch.inputs.shape[1] for batch in batches.values())
        if self.max_examples is None and built * num_tasks > MAX_SHARD_EXAMPLES:
            what = f"{self.target} built {built} examples for each of the {num_tasks} tasks of a shard"
            allowed = f"at most {MAX_SHARD_EXAMPLES}"
            raise UserError(f"{what}, {built * num_tasks} in all", where="runtime.shard_size", allowed=allowed)
        if self.max_examples is not None and built > self.max_examples:
            raise UserError(
                f"{self.target} built {built} examples for a task of split '{split}', "
                f"but {self.max_examples} are declared",
                where="tasks.max_examples",
                allowed=f"{built} or more, or smaller tasks",
            )


class TaskSource(ABC):
    """A distribution over tasks.

    Attributes:
        input_shape: Shape of one example.
        num_outputs: Outputs that an adapted learner needs.
        train_outputs: Outputs that each role of training tasks needs, by role: the roles that there are.
        objective: Name of the tasks' own loss.
        seed: The run's seed.
        tokens: Token ids of the examples; None if they are no texts.
        words: Vocabulary of a tokenizer that is made from the texts, in the order of its ids; None if it is not. It is
            saved in checkpoints, so that a learner can take texts without the data.
        classes: Names of the outputs, if they are the same classes in all tasks.
        declared: What the configuration says about it, if it is the user's own.
        supply: Of interactive tasks: collects the examples of their roles with the policy at hand.
        in_order: Whether examples are trials, which a policy with a memory reads step by step.
    """

    input_shape: tuple[int, ...]
    num_outputs: int
    train_outputs: Mapping[str, int]
    objective: str
    seed: int
    tokens: TokenIds | None = None
    words: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    declared: Declared | None = None
    supply: Supply | None = None
    in_order: bool = False

    @property
    def signature(self) -> TaskSignature:
        train_outputs = dict(self.train_outputs)
        sizes = self.input_shape, self.num_outputs, train_outputs
        return TaskSignature(*sizes, self.objective, self.tokens, self.classes, self.in_order)

    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        """Specs of the `count` tasks of a step: a pure function of (seed, split, step, index)."""
        seeds = mix_indices(count, self.seed, split, step)
        return tuple(TaskSpec(index, seed, split) for index, seed in enumerate(seeds))

    def shards(self, split: str, step: int, count: int, shard_size: int, lasts: int = 1) -> tuple[Shard, ...]:
        """The tasks of one step, cut into shards of fixed size, the last one possibly smaller.

        Args:
            split: `train`, `val` or `test`.
            step: Number of the step.
            count: Number of tasks.
            shard_size: Tasks of a shard.
            lasts: Steps that tasks last. All tasks of a shard begin together, and the shards one after another, so
                that a step has tasks of every age; those of the first steps end earlier.
        """
        starts = range(0, count, shard_size)
        begun = [step - (step + index * lasts // len(starts)) % lasts for index in range(len(starts))]
        specs = {first: self.specs(split, first, count) for first in set(begun)}
        return tuple(
            Shard(index, specs[begun[index]][start : start + shard_size]) for index, start in enumerate(starts)
        )

    def episodes(self, specs: Sequence[TaskSpec], roles: Sequence[str] = (SUPPORT, QUERY)) -> Episode:
        """Build the tasks as one episode whose tensors have a leading axis T = len(specs).

        Support rows are in random order, so that consecutive rows can serve as inner mini-batches. A task depends on
        its own spec alone, not on the others in the call.

        Args:
            specs: T tasks of one split.
            roles: The roles to build.

        Raises:
            ValueError: No specs, or specs of more than one split.
            UserError: The tasks have no such role.
        """
        splits = {spec.split for spec in specs}
        if len(splits) != 1:
            raise ValueError(f"one split is needed to make episodes together, not {sorted(splits)}")
        split = splits.pop()
        existing = self.roles(split)
        for role in roles:
            if role not in existing:
                raise UserError(f"there is no role '{role}'", where="tasks", allowed=", ".join(existing))
        seeds = np.array([spec.seed for spec in specs], dtype=np.uint64)
        batches = self.batches(split, seeds, roles)
        chosen = {role: batches[role] for role in roles}
        if self.declared is not None:
            self.declared.check(split, chosen, len(seeds))
        return Episode(chosen, torch.from_numpy(seeds.astype(np.int64)), self.sizes(chosen), self.supply)

    def roles(self, split: str) -> tuple[str, ...]:
        """The roles that tasks of a split can have: by default, those of training tasks."""
        return tuple(self.train_outputs)

    def sizes(self, batches: Mapping[str, Batch]) -> tuple[TextSizes, ...] | None:
        """How large each of T tasks of texts is by itself (`Episode.sizes`); None if the examples are no texts.

        Args:
            batches: The examples by role, padded to the longest task.
        """
        return None

    @abstractmethod
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        """Build the examples of T tasks.

        Args:
            split: `train`, `val` or `test`.
            seeds: [T] seeds, one for each task: all its random draws depend on its seed alone.
            roles: The roles to build.

        Returns:
            Examples by role, [T, B, ...] each.
        """
