"""Few-shot tasks over a class store: of images, with rotations as further classes (Santoro et al. 2016), or of vectors.

A class id is the position of the class in its split; with rotations, 4 * position + number of quarter turns. Rotations
are added after the class split, so that a class and its rotations are always in the same split.

Shapes: T tasks, W ways, E examples of a class, C classes of a split, N examples of one role.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import ClassTasks, StoreTasks, TextTasks, VectorTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import SOURCE, Episode
from distmeta.data.manifest import Kind
from distmeta.data.store import ClassStore, require_examples
from distmeta.tasks.base import SPLITS
from distmeta.tasks.fewshot import FewShotSource, Ids, task_size
from distmeta.tasks.stored import SOURCE_OF, rows_of, scaling_of, split_set_of


class StoreSource(FewShotSource):
    """Few-shot tasks over an open store.

    Args:
        config: Ways, shots, queries, split set, rotations.
        store: The store; its examples stay memory-mapped, only those of the episodes are copied.
        seed: The run's seed.
        dtype: Type of the inputs, float32 or float64.

    Raises:
        UserError: The store holds no images, lacks the split set, has fewer classes than ways or fewer examples than
            shots plus queries, or its images are not square although `rotations` is set.
    """

    kind: Kind = "image"

    def __init__(
        self, config: StoreTasks | VectorTasks | TextTasks, store: ClassStore, seed: int, dtype: torch.dtype
    ) -> None:
        if store.kind != self.kind:
            allowed = f"a store of {self.kind}s"
            if store.kind in SOURCE_OF:
                allowed += f"; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
            raise UserError(f"data '{store.name}' holds {store.kind}", where="tasks.store", allowed=allowed)
        if config.rotations and store.shape[1] != store.shape[2]:
            size = f"{store.shape[1]} x {store.shape[2]}"
            raise UserError(f"rotations of {size} images", where="tasks.rotations", allowed="square images, or false")
        split_set = split_set_of(config.split_set, store)
        self._store = store
        self._turns = 4 if config.rotations else 1
        self._splits = {split: store.split(split_set, split) for split in SPLITS if split in store.splits[split_set]}
        self._one_group, self._same_rows = config.one_group, config.same_rows
        self._pools_of: dict[tuple[str, int], list[Ids]] = {}
        for split in SPLITS:
            self._check_split(config, split)
        super().__init__(config, seed, dtype, store.shape, len(self._splits["train"]) * self._turns)

    def _check_split(self, config: StoreTasks | VectorTasks | TextTasks, split: str) -> None:
        """Check the numbers of classes and examples. An empty val or test split is an error only when it is used."""
        way, shots, queries = task_size(config, split)
        indices = self._splits.setdefault(split, np.zeros(0, dtype=np.int64))
        if not len(indices) and split != "train":
            return
        if len(indices):
            self._check_way(config, split, way)
        self._check_examples(split, shots, queries, "tasks")
        if split == "train" and config.stream is not None:
            self._check_examples(split, config.stream.shots, config.stream.queries, "tasks.stream")

    def _check_examples(self, split: str, shots: int, queries: int, where: str) -> None:
        names, indices = self._store.class_names, self._splits[split]
        require_examples(
            [names[index] for index in indices],
            np.diff(self._store.class_offsets)[indices].tolist(),
            shots + queries,
            f"{where}: {shots} shots and {queries} queries of data '{self._store.name}', split '{split}'",
        )

    def _check_way(self, config: ClassTasks, split: str, way: int) -> None:
        num_classes = max((len(pool) for pool in self._pools(split, 1)), default=0)
        if way > num_classes:
            field = "tasks.train_way" if split == "train" and config.train_way else "tasks.way"
            largest = "a group of" if self._one_group else f"split '{split}' of"
            raise UserError(
                f"{way} ways, but {largest} data '{self._store.name}' has {num_classes} classes",
                where=field,
                allowed=f"2 to {num_classes}" if num_classes > 1 else "a split with more classes",
            )

    @override
    def draw(self, split: str, seed: int, way: int, shots: int, queries: int) -> Episode:
        self._check_way(self._config, split, way)
        self._check_examples(split, shots, queries, "stream")
        return super().draw(split, seed, way, shots, queries)

    @override
    def _choose(self, split: str, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids]:
        classes = self._choose_classes(split, seeds, way)
        first, sizes = self._rows(self._splits[split])
        position = classes // self._turns
        of_classes = sizes[position]
        class_seeds = seeding.bits(seeds, "class seeds", way)
        if self._same_rows:  # the same draw for all classes, of the rows that each class of the split has
            class_seeds = np.broadcast_to(class_seeds[:, :1], class_seeds.shape)
            of_classes = np.full_like(of_classes, sizes.min())
        picked = _choose_rows(class_seeds, of_classes, int(sizes.max()), count)
        return classes, first[position][:, :, None] + picked

    def _choose_classes(self, split: str, seeds: Uint64, way: int) -> Ids:
        """The ids [T, W] of the classes of tasks, in the order of their targets."""
        self._check_way(self._config, split, way)
        pools = self._pools(split, way)
        chosen = (seeding.uniform(seeds, "group", 1)[:, 0] * len(pools)).astype(np.int64)
        classes = np.empty((len(seeds), way), dtype=np.int64)
        for index in np.unique(chosen):
            tasks = chosen == index
            classes[tasks] = pools[index][seeding.choice(seeds[tasks], "classes", len(pools[index]), way)]
        return classes

    def _pools(self, split: str, way: int) -> list[Ids]:
        """Ids of classes that a task may have together: all of a split, or each group of at least `way`."""
        if (split, way) not in self._pools_of:
            indices = self._splits[split]
            ids = np.arange(len(indices) * self._turns)
            pools = [ids]
            if self._one_group:
                groups: dict[str, list[int]] = {}
                for position, index in enumerate(indices):
                    groups.setdefault(self._store.class_names[index].partition("/")[0], []).append(position)
                pools = [ids[np.isin(ids // self._turns, group)] for group in groups.values()]
            self._pools_of[split, way] = [pool for pool in pools if len(pool) >= way]
        return self._pools_of[split, way]

    @override
    def _choose_source(self, seeds: Uint64, count: int) -> tuple[Ids, Ids, Ids]:
        first, sizes = self._rows(self._splits["train"])
        class_draw, row_draw = seeding.uniform(seeds, "joint", 2 * count).reshape(len(seeds), 2, count).swapaxes(0, 1)
        classes = (class_draw * self.train_outputs[SOURCE]).astype(np.int64)
        position = classes // self._turns
        return classes, classes, first[position] + (row_draw * sizes[position]).astype(np.int64)

    @override
    def _choose_trajectory(self, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids, Ids]:
        classes, examples = self._choose("train", seeds, way, count)
        return classes, classes, examples

    def _rows(self, indices: Ids) -> tuple[Ids, Ids]:
        """First row and number of rows of each class, [C] each."""
        offsets = self._store.class_offsets
        return offsets[indices], offsets[indices + 1] - offsets[indices]

    @override
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        images = self._store.images[examples]
        for turns in range(1, self._turns):
            rotated = classes % self._turns == turns
            images[rotated] = np.rot90(images[rotated], turns, axes=(-2, -1))
        return np.true_divide(images, 255, dtype=self._dtype)


class VectorSource(StoreSource):
    """Few-shot tasks over an open store of vectors [D], as they are or standardised."""

    kind: Kind = "vector"

    def __init__(self, config: VectorTasks, store: ClassStore, seed: int, dtype: torch.dtype) -> None:
        super().__init__(config, store, seed, dtype)
        self.scaling = scaling_of(store.vectors, rows_of(store, self._splits["train"])) if config.standardise else None

    @override
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        vectors = self._store.vectors[examples]
        return vectors.astype(self._dtype) if self.scaling is None else self.scaling(vectors).astype(self._dtype)


def _choose_rows(seeds: Uint64, sizes: Ids, largest: int, count: int) -> Ids:
    """Draw `count` distinct rows of each class, in random order.

    Args:
        seeds: [T, W], one for each class of each task.
        sizes: [T, W] number of rows of the class, at least `count`.
        largest: Number of rows of the largest class of the split.
        count: E.

    Returns:
        [T, W, E] row numbers within the class.
    """
    keys = seeding.bits(seeds.ravel(), "rows", largest)
    # Give rows beyond the end of a smaller class the largest key; halving keeps all other keys below it.
    keys = np.where(np.arange(largest) < sizes.reshape(-1, 1), keys >> np.uint64(1), np.uint64(2**64 - 1))
    picked = np.argpartition(keys, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(keys, picked, axis=1), axis=1, kind="stable")
    return np.take_along_axis(picked, order, axis=1).reshape(*seeds.shape, count)
