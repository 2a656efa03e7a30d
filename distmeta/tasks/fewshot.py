"""N-way K-shot classification episodes, independent of the examples.

Subclasses choose classes and examples and load images, vectors or texts; this module arranges them into episodes. All
tasks of a shard are drawn in one vectorised call, each from its own seed.

Shapes: T tasks, W ways, K shots, Q queries per class, E = K + Q, N = W * K support examples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import ClassTasks, StreamOptions
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import (
    DOMAINS,
    QUERY,
    REMEMBER,
    ROTATION,
    SOURCE,
    SUPPORT,
    TRAJECTORY,
    UNLABELLED,
    Batch,
    Episode,
)
from distmeta.tasks.base import TaskSource
from distmeta.tasks.turned import TURNS, domains_of, rotation_of

Ids = npt.NDArray[Any]
_NUMPY_DTYPES: dict[torch.dtype, type[np.floating[Any]]] = {torch.float32: np.float32, torch.float64: np.float64}


class FewShotSource(TaskSource):
    """Base class of few-shot classification tasks.

    Args:
        config: Ways, shots and queries.
        seed: The run's seed.
        dtype: Type of the inputs, float32 or float64.
        input_shape: (channels, height, width) of an image, (D,) of a vector, (L,) of a text.
        num_source_classes: Outputs of role `source`: the classes of the training split.
    """

    objective = "cross_entropy"

    def __init__(
        self,
        config: ClassTasks,
        seed: int,
        dtype: torch.dtype,
        input_shape: tuple[int, ...],
        num_source_classes: int,
    ) -> None:
        self.seed = seed
        self.input_shape = input_shape
        self.num_outputs = config.way
        way = config.train_way or config.way
        self.train_outputs = {SUPPORT: way, QUERY: way, SOURCE: num_source_classes}
        if config.stream is not None:
            _check_classes(config.stream, num_source_classes)
            self.train_outputs |= {TRAJECTORY: num_source_classes, REMEMBER: num_source_classes}
        if config.has_numbers:
            self.train_outputs |= {UNLABELLED: way, DOMAINS: 2}
        if config.has_images and input_shape[1] == input_shape[2]:
            self.train_outputs[ROTATION] = TURNS
        self._config = config
        self._dtype = _NUMPY_DTYPES[dtype]

    @override
    def roles(self, split: str) -> tuple[str, ...]:
        return tuple(role for role in super().roles(split) if split == "train" or role not in (TRAJECTORY, REMEMBER))

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        batches: dict[str, Batch] = {}
        if SOURCE in roles:
            way, _, queries = task_size(self._config, "train")
            batches[SOURCE] = self._batch(*self._choose_source(seeds, way * queries))
        if self._config.stream is not None and {TRAJECTORY, REMEMBER} & set(roles):
            batches |= self._streams(self._config.stream, seeds, roles)
        made_of = {UNLABELLED: (QUERY,), ROTATION: (QUERY,), DOMAINS: (SUPPORT, QUERY)}
        needed = [each for role in roles for each in made_of.get(role, (role,))]
        rest = [role for role in needed if role not in batches]
        batches |= self._episodes(split, seeds, rest) if rest else {}
        if DOMAINS in roles:
            batches[DOMAINS] = domains_of(batches[SUPPORT].inputs, batches[QUERY].inputs)
        if UNLABELLED in roles:
            batches[UNLABELLED] = Batch(batches[QUERY].inputs)
        if ROTATION in roles:
            batches[ROTATION] = rotation_of(batches[QUERY].inputs, seeds, is_training=split == "train")
        return batches

    def draw(self, split: str, seed: int, way: int, shots: int, queries: int) -> Episode:
        """One task of another size (T = 1): support and query set, both class after class.

        Raises:
            UserError: The split has too few classes or examples.
        """
        seeds = np.array([seed], dtype=np.uint64)
        classes, examples = self._choose(split, seeds, way, shots + queries)
        labels = np.broadcast_to(np.arange(way)[:, None], examples.shape)
        columns = (labels, np.broadcast_to(classes[:, :, None], examples.shape), examples)
        support, query = (
            self._batch(*(_rows(values[:, :, part]) for values in columns))
            for part in (slice(shots), slice(shots, None))
        )
        return Episode({SUPPORT: support, QUERY: query}, torch.from_numpy(seeds.astype(np.int64)))

    def _streams(self, config: StreamOptions, seeds: Uint64, roles: Sequence[str]) -> dict[str, Batch]:
        """Streams of training classes, with labels among all of these."""
        labels, classes, examples = self._choose_trajectory(seeds, config.classes, config.shots + config.queries)
        columns = (*(np.broadcast_to(each[:, :, None], examples.shape) for each in (labels, classes)), examples)
        batches = {}
        if TRAJECTORY in roles:
            batches[TRAJECTORY] = self._batch(*(_rows(values[:, :, : config.shots]) for values in columns))
        if REMEMBER in roles:
            further = [_rows(values[:, :, config.shots :]) for values in columns]
            drawn = self._choose_source(seeds, config.remember)
            batches[REMEMBER] = self._batch(
                *(np.concatenate(pair, axis=1) for pair in zip(further, drawn, strict=True))
            )
        return batches

    def _episodes(self, split: str, seeds: Uint64, roles: Sequence[str]) -> dict[str, Batch]:
        """Support and query sets of tasks of their own classes."""
        way, shots, queries = task_size(self._config, split)
        classes, examples = self._choose(split, seeds, way, shots + queries)
        labels = np.broadcast_to(np.arange(way)[:, None], (len(seeds), way, shots + queries))
        every_class = np.broadcast_to(classes[:, :, None], examples.shape)
        columns = (labels, every_class, examples)
        batches = {}
        if SUPPORT in roles:
            given = (self._with_noise(labels[:, :, :shots], seeds), every_class[:, :, :shots], examples[:, :, :shots])
            rows = [_rows(values) for values in given]
            if split == "train" or self._config.stream is None:
                order = seeding.choice(seeds, "support order", way * shots, way * shots)
                rows = [np.take_along_axis(values, order, axis=1) for values in rows]
            batches[SUPPORT] = self._batch(*rows)
        if QUERY in roles:
            batches[QUERY] = self._batch(*(_rows(values[:, :, shots:]) for values in columns))
        return batches

    def _with_noise(self, labels: Ids, seeds: Uint64) -> Ids:
        """Labels [T, W, K] of which some are those of other classes: one of each class to the same class each time, so
        that as many of each label remain. The examples of a class are in random order.
        """
        _, way, shots = labels.shape
        if not (count := self._config.wrong_labels(shots)):
            return labels
        shifts = 1 + (seeding.uniform(seeds, "label noise", count) * (way - 1)).astype(np.int64)
        return np.concatenate(((labels[:, :, :count] + shifts[:, None]) % way, labels[:, :, count:]), axis=2)

    def _batch(self, labels: Ids, classes: Ids, examples: Ids) -> Batch:
        images = self._images(classes, examples)
        return Batch(torch.from_numpy(images), torch.from_numpy(np.array(labels, dtype=np.int64)))

    @abstractmethod
    def _choose(self, split: str, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids]:
        """Choose distinct classes [T, W] of a split, and distinct examples [T, W, E] of each."""

    @abstractmethod
    def _choose_source(self, seeds: Uint64, count: int) -> tuple[Ids, Ids, Ids]:
        """Choose labels, classes and examples, each [T, count], from all training classes."""

    @abstractmethod
    def _choose_trajectory(self, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids, Ids]:
        """Choose labels and distinct training classes [T, way], and distinct examples [T, way, count] of each."""

    @abstractmethod
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        """Load the inputs of classes and examples [T, N]: [T, N, *input_shape]; of images, values in [0, 1]."""


def _check_classes(config: StreamOptions, num_classes: int) -> None:
    if config.classes > num_classes:
        what = f"{config.classes} classes in a trajectory, but there are {num_classes} training classes"
        raise UserError(what, where="tasks.stream.classes", allowed=f"1 to {num_classes}")


def _rows(values: Ids) -> Ids:
    """The examples of all classes in one row, class after class: [T, W, E] -> [T, W E]."""
    return values.reshape(len(values), -1)


def task_size(config: ClassTasks, split: str) -> tuple[int, int, int]:
    """Ways, shots and queries per class of the tasks of a split."""
    if split == "train":
        return config.train_way or config.way, config.train_shots or config.shots, config.queries
    return config.way, config.shots, config.eval_queries
