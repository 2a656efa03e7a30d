"""Classification of all classes of a store, under a shift at evaluation.

Shapes: T tasks, N examples of one role, M examples of a split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.shifts import Augmentation, ShiftedTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import DOMAINS, QUERY, ROTATION, SUPPORT, UNLABELLED, Batch
from distmeta.data.store import ClassStore
from distmeta.tasks.base import SPLITS, TaskSource
from distmeta.tasks.shifts import NO_CLASS, SHIFTS, Ids, Images, NoShift
from distmeta.tasks.stored import SOURCE_OF
from distmeta.tasks.turned import TURNS, domains_of, rotation_of

_MADE_IN_TRAINING = {ROTATION: (QUERY,), DOMAINS: (QUERY, UNLABELLED)}
_MADE_AT_EVALUATION = {ROTATION: (QUERY,), DOMAINS: (SUPPORT, QUERY), UNLABELLED: (QUERY,)}
"""Roles that are made of others."""


class ShiftedSource(TaskSource):
    """Tasks of all classes. Inputs are [T, N, C, H, W] in [0, 1], targets [T, N].

    Args:
        config: Numbers of examples, shares, augmentation, shift.
        store: The store; its images stay memory-mapped, only those of the tasks are copied.
        seed: The run's seed.
        dtype: Type of the inputs, float32 or float64.

    Raises:
        UserError: The store holds no square images, a split has fewer examples than a task, or the shift names classes
            that there are not.
    """

    objective = "cross_entropy"

    def __init__(self, config: ShiftedTasks, store: ClassStore, seed: int, dtype: torch.dtype) -> None:
        if store.kind != "image":
            allowed = f"a store of images; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
            raise UserError(f"data '{store.name}' holds {store.kind}", where="tasks.store", allowed=allowed)
        if store.shape[1] != store.shape[2]:
            size = f"{store.shape[1]} x {store.shape[2]}"
            raise UserError(f"data '{store.name}' has {size} images", where="tasks.store", allowed="square images")
        shift, names = config.shift, store.class_names
        self._shift = NoShift(names) if shift is None else SHIFTS[shift.kind](shift, names)
        self.seed, self.input_shape, self.num_outputs = seed, store.shape, self._shift.num_classes
        self.classes = self._shift.classes
        of_classes = dict.fromkeys((SUPPORT, QUERY, UNLABELLED), self.num_outputs)
        self.train_outputs = {**of_classes, ROTATION: TURNS, DOMAINS: 2}
        self._config, self._store = config, store
        self._dtype = np.float32 if dtype == torch.float32 else np.float64
        self._rows = {split: self._rows_of(split) for split in SPLITS}
        self._check_size("train")
        if len(self._rows["test"][0]):  # before a run, not after it
            self._check_size("test")

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        self._check_size(split)
        is_training, queries = split == "train", self._num_queries(split)
        made_of = _MADE_IN_TRAINING if is_training else _MADE_AT_EVALUATION
        needed = {each for role in roles for each in made_of.get(role, (role,))}
        available = len(self._rows[split][0])
        picked = seeding.choice(seeds, "rows", available, queries + self._config.examples)
        drawn = {QUERY: picked[:, :queries], SUPPORT: picked[:, queries:]}
        if UNLABELLED in needed:
            drawn[UNLABELLED] = seeding.choice(seeds, UNLABELLED, available, queries)
        batches = {
            role: self._batch(split, seeds, drawn[role], role, shifted=not is_training or role == UNLABELLED)
            for role in drawn
            if role in needed
        }
        if DOMAINS in roles:
            batches[DOMAINS] = domains_of(*(batches[role].inputs for role in made_of[DOMAINS]))
        if ROTATION in roles:
            batches[ROTATION] = rotation_of(batches[QUERY].inputs, seeds, is_training=is_training)
        if UNLABELLED in roles:
            batches[UNLABELLED] = Batch(batches[UNLABELLED if is_training else QUERY].inputs)
        return batches

    def _num_queries(self, split: str) -> int:
        return self._config.queries if split == "train" else self._config.eval_queries

    def _rows_of(self, split: str) -> tuple[Ids, Ids]:
        """Rows [M] of the examples of a split, and their labels [M]."""
        offsets, position = self._store.class_offsets, SPLITS.index(split)
        begin, end = sum(self._config.shares[:position]), sum(self._config.shares[: position + 1])
        rows, labels = [], []
        for index, label in enumerate(self._shift.labels_of_classes(shifted=split != "train")):
            size = offsets[index + 1] - offsets[index]
            if label != NO_CLASS:
                rows.append(np.arange(round(begin * size), round(end * size)) + offsets[index])
                labels.append(np.full(len(rows[-1]), label, dtype=np.int64))
        return np.concatenate(rows), np.concatenate(labels)

    def _check_size(self, split: str) -> None:
        queries, available = self._num_queries(split), len(self._rows[split][0])
        if queries + self._config.examples > available:
            field = "queries" if split == "train" else "eval_queries"
            raise UserError(
                f"{self._config.examples} examples and {queries} queries, but split '{split}' of data "
                f"'{self._store.name}' has {available}",
                where=f"tasks.{field}",
                allowed="fewer, or another share of the split in tasks.shares",
            )

    def _batch(self, split: str, seeds: Uint64, picked: Ids, role: str, *, shifted: bool) -> Batch:
        """Examples `picked` [T, N] of a split."""
        rows, labels = (each[picked] for each in self._rows[split])
        images = np.stack(
            [
                self._shift.images(self._store.images[of], its, of, shifted=shifted)
                for of, its in zip(rows, labels, strict=True)
            ]
        )
        if split == "train" and self._config.augment is not None:
            images = augmented(images, self._config.augment, seeds, role)
        inputs = torch.from_numpy(np.true_divide(images, 255, dtype=self._dtype))
        return Batch(inputs, torch.from_numpy(self._shift.labels(labels, shifted=shifted)))


def augmented(images: Images, config: Augmentation, seeds: Uint64, stream: str) -> Images:
    """Move and mirror images [T, N, C, H, W] at random; draws come from the seeds [T]."""
    num_tasks, count, _, height, width = images.shape
    drawn = seeding.uniform(seeds, f"augment {stream}", 3 * count).reshape(num_tasks, 3, count)
    down, right = ((drawn[:, axis] * (2 * config.crop + 1)).astype(np.int64) for axis in range(2))
    pad = (config.crop, config.crop)
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), pad, pad))
    rows = down[..., None] + np.arange(height)
    columns = right[..., None] + np.arange(width)
    if config.flip:
        columns = np.where(drawn[:, 2, :, None] < 0.5, columns[..., ::-1], columns)
    task, image = np.arange(num_tasks)[:, None, None, None], np.arange(count)[None, :, None, None]
    moved: npt.NDArray[np.uint8] = padded.transpose(0, 1, 3, 4, 2)[
        task, image, rows[..., :, None], columns[..., None, :]
    ].transpose(0, 1, 4, 2, 3)
    return np.ascontiguousarray(moved)
