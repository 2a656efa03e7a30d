"""N-way K-shot classification episodes, independent of the examples.

Subclasses choose classes and examples and load the images or vectors; this module arranges them into episodes. All
tasks of a shard are drawn in one vectorised call, each from its own seed.

Shapes: T tasks, W ways, K shots, Q queries per class, E = K + Q, N = W * K support examples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import GlyphTasks, StoreTasks, VectorTasks
from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.core.types import Batch, Episode, TaskSpec, Term
from distmeta.tasks.base import TaskSource

Ids = npt.NDArray[Any]
_NUMPY_DTYPES: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


class FewShotSource(TaskSource):
    """Base class of few-shot classification tasks.

    Args:
        config: Ways, shots and queries.
        seed: The run's seed.
        dtype: Type of the inputs, float32 or float64.
        input_shape: (channels, height, width) of an image, (D,) of a vector.
        num_joint_classes: Number of outputs in joint training: the classes of the training split.
    """

    objective = "cross_entropy"

    def __init__(
        self,
        config: StoreTasks | VectorTasks | GlyphTasks,
        seed: int,
        dtype: torch.dtype,
        input_shape: tuple[int, ...],
        num_joint_classes: int,
    ) -> None:
        self.seed = seed
        self.input_shape = input_shape
        self.num_outputs = config.way
        self.num_train_outputs = num_joint_classes if config.joint else (config.train_way or config.way)
        self._config = config
        self._dtype = _NUMPY_DTYPES[dtype]

    @override
    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        split, seeds = split_and_seeds(specs)
        if self._config.joint and split == "train":
            return self._joint_episode(seeds)
        way, shots, queries = task_size(self._config, split)
        classes, examples = self._choose(split, seeds, way, shots + queries)
        labels = np.broadcast_to(np.arange(way)[:, None], (len(seeds), way, shots + queries))
        order = seeding.choice(seeds, "support order", way * shots, way * shots)

        def role(values: Ids, first: int, last: int) -> Ids:
            return values[:, :, first:last].reshape(len(seeds), -1)

        def support(values: Ids) -> Ids:
            return np.take_along_axis(role(values, 0, shots), order, axis=1)

        every_class = np.broadcast_to(classes[:, :, None], examples.shape)
        return Episode(
            self._batch(support(every_class), support(examples), support(labels)),
            (Term(self._batch(*(role(values, shots, shots + queries) for values in (every_class, examples, labels)))),),
        )

    def _joint_episode(self, seeds: Uint64) -> Episode:
        """Random images of all training classes with their global labels; the support is a placeholder of one row."""
        way, _, queries = task_size(self._config, "train")
        labels, classes, examples = self._choose_joint(seeds, way * queries)
        batch = self._batch(classes, examples, labels)
        return Episode(batch.map(lambda tensor: tensor[:, :1].contiguous()), (Term(batch, adapted=False),))

    def _batch(self, classes: Ids, examples: Ids, labels: Ids) -> Batch:
        images = self._images(classes, examples)
        return Batch(torch.from_numpy(images), torch.from_numpy(np.array(labels, dtype=np.int64)))

    @abstractmethod
    def _choose(self, split: str, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids]:
        """Choose distinct classes [T, W] of a split, and distinct examples [T, W, E] of each."""

    @abstractmethod
    def _choose_joint(self, seeds: Uint64, count: int) -> tuple[Ids, Ids, Ids]:
        """Choose labels, classes and examples, each [T, count], from all training classes."""

    @abstractmethod
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        """Load the inputs of classes and examples [T, N]: [T, N, *input_shape]; of images, values in [0, 1]."""


def task_size(config: StoreTasks | VectorTasks | GlyphTasks, split: str) -> tuple[int, int, int]:
    """Ways, shots and queries per class of the tasks of a split."""
    if split == "train":
        return config.train_way or config.way, config.train_shots or config.shots, config.queries
    return config.way, config.shots, config.eval_queries


def split_and_seeds(specs: Sequence[TaskSpec]) -> tuple[str, Uint64]:
    """The common split of all specs, and their seeds [T].

    Raises:
        ValueError: No specs, or specs of more than one split.
    """
    splits = {spec.split for spec in specs}
    if len(splits) != 1:
        raise ValueError(f"one split is needed to make episodes together, not {sorted(splits)}")
    return splits.pop(), np.array([spec.seed for spec in specs], dtype=np.uint64)
