"""Transfer from one store of images to few labelled images of another one.

Shapes: T tasks, N examples of one role, K labelled images of the target, C classes, H height of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config.transfer import TransferTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64, mix
from distmeta.core.types import QUERY, SOURCE, SUPPORT, Batch, TaskSpec
from distmeta.data.store import ClassStore, require_examples
from distmeta.tasks.base import TaskSource
from distmeta.tasks.stored import SOURCE_OF

MASKED = "masked"
"""Role of evaluation tasks: the queries, the lower half of whose images is 0."""
Rows = npt.NDArray[np.int64]


class TransferSource(TaskSource):
    """One target problem beside batches of a source. Inputs are [T, N, C, H, W], of images in [0, 1], targets [T, N].

    Args:
        config: Numbers of examples, division, signature.
        store: The source; images stay memory-mapped, only those of the tasks are copied.
        target: The target.
        seed: The run's seed, which also draws the labelled images of the target.
        dtype: Type of the inputs, float32 or float64.

    Raises:
        UserError: A store holds no images, does not tell which are for tests, or has too few for training or for tests.
    """

    objective = "cross_entropy"

    def __init__(
        self, config: TransferTasks, store: ClassStore, target: ClassStore, seed: int, dtype: torch.dtype
    ) -> None:
        for field, each in (("store", store), ("target", target)):
            _require_images(each, f"tasks.{field}")
        channels, *size = store.shape
        self.seed, self.input_shape = seed, (channels, *((config.size, config.size) if config.size else size))
        self._config, self._store, self._target, self._dtype = config, store, target, dtype
        train, self._test = divide(target, config.test_share, "tasks.target")
        self._labelled = _drawn(train, target, config.examples, mix(seed, "labelled"))
        of_source, _ = divide(store, config.test_share, "tasks.store")
        taken = self._labelled if store.path.resolve() == target.path.resolve() else self._labelled[:0]
        self._source = np.setdiff1d(of_source, taken)
        self.num_outputs, num_source = len(target.class_names), len(store.class_names)
        self.train_outputs = {SUPPORT: self.num_outputs, QUERY: self.num_outputs, SOURCE: num_source}
        self.train_outputs |= {MASKED: self.num_outputs}

    @override
    def roles(self, split: str) -> tuple[str, ...]:
        return tuple(role for role in self.train_outputs if split != "train" or role != MASKED)

    @override
    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        """The seed of a `val` task modulo the number of folds is the fold that it holds out: one after another."""
        specs, folds = super().specs(split, step, count), self._config.folds
        if split != "val":
            return specs
        return tuple(replace(spec, seed=spec.seed - spec.seed % folds + spec.index % folds) for spec in specs)

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        batches = {SOURCE: self._source_batch(seeds)} if SOURCE in roles else {}
        if {SUPPORT, QUERY, MASKED} & set(roles):
            rows_of = {"train": self._train_rows, "val": self._val_rows, "test": self._test_rows}
            support, query = rows_of[split](seeds)
            if SUPPORT in roles:
                batches[SUPPORT] = self._batch(self._target, support)
            if {QUERY, MASKED} & set(roles):
                batches[QUERY] = self._batch(self._target, query)
            if MASKED in roles:
                batches[MASKED] = Batch(lower_half(batches[QUERY].inputs, 0.0), batches[QUERY].targets)
        return batches

    def _train_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        support, queries = self._config.divided
        chosen = self._labelled[seeding.choice(seeds, "division", len(self._labelled), support + queries)]
        return chosen[:, :support], chosen[:, support:]

    def _val_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        """Neighbours among the labelled images are of different classes, so that folds have about as many of each."""
        count, folds = len(self._labelled), self._config.folds
        held = (seeds % np.uint64(folds)).astype(np.int64)[:, None] * (count // folds) + np.arange(count // folds)
        others = np.stack([np.setdiff1d(np.arange(count), rows) for rows in held])
        order = seeding.choice(seeds, "support order", others.shape[1], others.shape[1])
        return self._labelled[np.take_along_axis(others, order, axis=1)], self._labelled[held]

    def _test_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        count, available = len(self._labelled), len(self._test)
        support = self._labelled[seeding.choice(seeds, "support order", count, count)]
        if self._config.eval_queries >= available:
            return support, np.broadcast_to(self._test, (len(seeds), available))
        return support, self._test[seeding.choice(seeds, "queries", available, self._config.eval_queries)]

    def _source_batch(self, seeds: Uint64) -> Batch:
        drawn = seeding.uniform(seeds, "source", self._config.source_batch)
        rows = self._source[(drawn * len(self._source)).astype(np.int64)]
        batch, deviation = self._batch(self._store, rows), self._config.signature
        if deviation is None:
            return batch
        assert batch.targets is not None
        channels, height, width = self.input_shape
        shape = (channels, height - height // 2, width)
        keys = rows.ravel().astype(np.uint64) ^ np.uint64(mix(self.seed, "signature"))
        noise = seeding.normal(keys, "signature", int(np.prod(shape))).reshape(*rows.shape, *shape)
        means = batch.targets.numpy()[..., None, None, None] / len(self._store.class_names)
        signature = torch.from_numpy(means + deviation * noise).to(self._dtype)
        return Batch(lower_half(batch.inputs, signature), batch.targets)

    def _batch(self, store: ClassStore, rows: Rows) -> Batch:
        """Images of rows [T, N] and their classes."""
        labels = np.searchsorted(store.class_offsets, rows, side="right") - 1
        images = torch.from_numpy(store.images[rows]).to(self._dtype) / 255
        return Batch(self._fitted(images), torch.from_numpy(labels))

    def _fitted(self, images: Tensor) -> Tensor:
        """Images [T, N, C, H, W] with the channels and the size of the tasks."""
        channels, *size = self.input_shape
        if images.shape[2] != channels:
            images = images.mean(2, keepdim=True).expand(-1, -1, channels, -1, -1)
        if list(images.shape[3:]) != size:
            scaled = F.interpolate(images.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
            images = scaled.reshape(*images.shape[:3], *size)
        return images.contiguous()


def lower_half(images: Tensor, values: Tensor | float) -> Tensor:
    """Images [..., H, W] whose rows from H // 2 on are replaced."""
    replaced = images.clone()
    replaced[..., images.shape[-2] // 2 :, :] = values
    return replaced


def divide(store: ClassStore, test_share: float | None, where: str) -> tuple[Rows, Rows]:
    """The rows of a store for training and for tests.

    Args:
        store: The store.
        test_share: Share of each class that is for tests, its last rows; None takes the data's own division.
        where: Field of the configuration that names it, for messages.

    Raises:
        UserError: The data has no division of its own, or a class has no example for training.
    """
    sizes = np.diff(store.class_offsets)
    if test_share is not None:
        counts = sizes - np.rint(sizes * test_share).astype(np.int64)
    elif store.manifest.parts:
        counts = np.array(store.manifest.parts["train"])
    else:
        what = f"data '{store.name}' does not tell which of its examples are for tests"
        raise UserError(
            what, where=where, allowed="tasks.test_share, or data that is imported again, if it has a test set"
        )
    require_examples(store.class_names, counts.tolist(), 1, f"training examples of data '{store.name}'")
    starts, ends = store.class_offsets[:-1], store.class_offsets[1:]
    train = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    test = [np.arange(start + count, end) for start, count, end in zip(starts, counts, ends, strict=True)]
    return np.concatenate(train), np.concatenate(test)


def _require_images(store: ClassStore, where: str) -> None:
    if store.kind != "image":
        allowed = f"a store of images; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
        raise UserError(f"data '{store.name}' holds {store.kind}", where=where, allowed=allowed)


def _drawn(train: Rows, store: ClassStore, count: int, seed: int) -> Rows:
    """The labelled images: rows of all classes in turn, of each as many as of others, or one more."""
    classes = np.searchsorted(store.class_offsets, train, side="right") - 1
    num_classes = len(store.class_names)
    order = seeding.choice([seed], "classes", num_classes, num_classes)[0]
    drawn: list[Any] = []
    for place, label in enumerate(order):
        rows, share = train[classes == label], count // num_classes + (place < count % num_classes)
        name = store.class_names[label]
        require_examples([name], [len(rows)], share, f"tasks.examples: {count} labelled images of data '{store.name}'")
        picked = rows[seeding.choice([mix(seed, int(label))], "rows", len(rows), share)[0]] if share else rows[:0]
        drawn += [(turn, place, row) for turn, row in enumerate(picked)]
    return np.array([row for *_, row in sorted(drawn)], dtype=np.int64)
