"""Transfer from one store of images to few labelled images of another one.

Shapes: T tasks, N examples of one role, K labelled images of the target, C classes, H height of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config.transfer import TransferTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64, mix
from distmeta.core.types import QUERY, ROTATION, SOURCE, SUPPORT, Batch, TaskSpec
from distmeta.data.store import ClassStore
from distmeta.tasks.base import TaskSource
from distmeta.tasks.few_labels import FewLabels, Rows, divide
from distmeta.tasks.stored import SOURCE_OF
from distmeta.tasks.turned import TURNS, rotation_of

MASKED = "masked"
"""Role of evaluation tasks: the queries, the lower half of whose images is 0."""


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
        self._labels = FewLabels(config, target, seed, "tasks.target")
        of_source, _ = divide(store, config.test_share, "tasks.store")
        labelled = self._labels.labelled
        taken = labelled if store.path.resolve() == target.path.resolve() else labelled[:0]
        self._source = np.setdiff1d(of_source, taken)
        self.classes = tuple(target.class_names)
        self.num_outputs, num_source = len(self.classes), len(store.class_names)
        self.train_outputs = {SUPPORT: self.num_outputs, QUERY: self.num_outputs, SOURCE: num_source}
        self.train_outputs |= {MASKED: self.num_outputs}
        if self.input_shape[1] == self.input_shape[2]:
            self.train_outputs[ROTATION] = TURNS

    @override
    def roles(self, split: str) -> tuple[str, ...]:
        other = MASKED if split == "train" else ROTATION
        return tuple(role for role in self.train_outputs if role != other)

    @override
    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        specs = super().specs(split, step, count)
        return self._labels.in_turn(specs) if split == "val" else specs

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        batches = {SOURCE: self._source_batch(seeds)} if SOURCE in roles else {}
        if ROTATION in roles:
            drawn = seeding.uniform(seeds, ROTATION, self._config.source_batch)
            rows = self._labels.labelled[(drawn * len(self._labels.labelled)).astype(np.int64)]
            batches[ROTATION] = rotation_of(self._batch(self._target, rows).inputs, seeds, is_training=True)
        if {SUPPORT, QUERY, MASKED} & set(roles):
            support, query = self._labels.rows(split, seeds)
            if SUPPORT in roles:
                batches[SUPPORT] = self._batch(self._target, support)
            if {QUERY, MASKED} & set(roles):
                batches[QUERY] = self._batch(self._target, query)
            if MASKED in roles:
                batches[MASKED] = Batch(lower_half(batches[QUERY].inputs, 0.0), batches[QUERY].targets)
        return batches

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
        images = torch.from_numpy(store.images[rows]).to(self._dtype) / 255
        return Batch(self._fitted(images), torch.from_numpy(store.labels_of(rows)))

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


def _require_images(store: ClassStore, where: str) -> None:
    if store.kind != "image":
        allowed = f"a store of images; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
        raise UserError(f"data '{store.name}' holds {store.kind}", where=where, allowed=allowed)
