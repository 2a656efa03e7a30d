"""Optimisation problems: random quadratics, and classification of all classes of a store at once.

Where they start is drawn by the learner (`distmeta.methods.learners.learned_optimizer`), from the seed of the task.

Shapes: T tasks, N examples of one role, M rows of W, D numbers, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch
from distmeta.data.store import ClassStore, require_examples
from distmeta.tasks.base import TaskSource
from distmeta.tasks.stored import SOURCE_OF

ENDS = {"train": (0.0, 0.64), "val": (0.64, 0.8), "test": (0.8, 1.0)}
"""Where the examples of a split begin and end among those of each class, as shares."""
LEAST_EXAMPLES = 5
"""Of a class, so that each split has one."""


class QuadraticSource(TaskSource):
    """One quadratic per task: inputs [T, M, D] are W, targets [T, M, 1] are y, of both roles.

    Args:
        config: Sizes.
        seed: The run's seed.
        dtype: Type of inputs and targets.
    """

    num_outputs = 1
    train_outputs = MappingProxyType({SUPPORT: 1, QUERY: 1})
    objective = "mse"

    def __init__(self, config: QuadraticTasks, seed: int, dtype: torch.dtype) -> None:
        self.seed, self.input_shape = seed, (config.size,)
        self._config, self._dtype = config, dtype

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        rows, size = self._config.rows, self._config.size
        drawn = seeding.normal(seeds, "quadratic", rows * (size + 1)).reshape(len(seeds), rows, size + 1)
        values = torch.from_numpy(drawn).to(self._dtype)
        batch = Batch(values[..., :size].contiguous(), values[..., size:].contiguous())
        return dict.fromkeys(roles, batch)


class DatasetSource(TaskSource):
    """Classification of all classes of a store. Inputs are [T, N, C, H, W] in [0, 1], targets [T, N].

    Args:
        config: Numbers of examples.
        store: The store; its images stay memory-mapped, only those of the tasks are copied.
        seed: The run's seed.
        dtype: Type of the inputs, float32 or float64.

    Raises:
        UserError: The store holds no images, or a class has too few.
    """

    objective = "cross_entropy"

    def __init__(self, config: DatasetTasks, store: ClassStore, seed: int, dtype: torch.dtype) -> None:
        if store.kind != "image":
            allowed = f"a store of images; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
            raise UserError(f"data '{store.name}' holds {store.kind}", where="tasks.store", allowed=allowed)
        sizes = np.diff(store.class_offsets)
        require_examples(store.class_names, sizes.tolist(), LEAST_EXAMPLES, f"tasks of data '{store.name}'")
        self.seed, self.input_shape, self.num_outputs = seed, store.shape, len(sizes)
        self.train_outputs = {SUPPORT: self.num_outputs, QUERY: self.num_outputs}
        self._config, self._store = config, store
        self._dtype = np.float32 if dtype == torch.float32 else np.float64
        self._rows = {split: _rows_between(store.class_offsets, *ends) for split, ends in ENDS.items()}

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        config = self._config
        counts = {SUPPORT: config.examples, QUERY: config.queries if split == "train" else config.eval_queries}
        return {role: self._batch(split, seeds, role, counts[role]) for role in roles}

    def _batch(self, split: str, seeds: Uint64, role: str, count: int) -> Batch:
        among = self._rows[split]
        rows = among[(seeding.uniform(seeds, role, count) * len(among)).astype(np.int64)]
        labels = self._store.labels_of(rows)
        images = np.true_divide(self._store.images[rows], 255, dtype=self._dtype)
        return Batch(torch.from_numpy(images), torch.from_numpy(labels))


def _rows_between(offsets: npt.NDArray[np.int64], begin: float, end: float) -> npt.NDArray[np.int64]:
    """The rows of each class from one share of its examples to another; `offsets` [C + 1] are those of the classes."""
    sizes = np.diff(offsets)
    first, last = (offsets[:-1] + np.rint(sizes * share).astype(np.int64) for share in (begin, end))
    return np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)])
