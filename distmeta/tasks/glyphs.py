"""Few-shot tasks on procedurally drawn characters (`distmeta.tasks.drawing`), without a download.

The last two bits of a 62-bit class seed are the split, so that splits have no class in common. Classes of a task are
drawn independently; two are equal with a probability of about 2^-60.

Roles with labels among all training classes (`source`, `trajectory`, `remember`) need a fixed set of these: it has the
same 256 characters in every run. Other training tasks draw from all 2^60 characters.

Shapes: T tasks, W ways, E examples of a class, N examples of one role, H side of the images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import GlyphTasks
from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.tasks.base import SPLITS
from distmeta.tasks.drawing import draw
from distmeta.tasks.fewshot import FewShotSource, Ids

SOURCE_CLASSES = 256


class GlyphSource(FewShotSource):
    """Few-shot tasks on drawn characters.

    Args:
        config: Ways, shots, queries, size and jitter.
        seed: The run's seed.
        dtype: Type of the images, float32 or float64.
    """

    def __init__(self, config: GlyphTasks, seed: int, dtype: torch.dtype) -> None:
        self._size = config.size
        self._jitter = config.jitter
        self._source_classes = class_seeds("train", np.zeros(1, dtype=np.uint64), SOURCE_CLASSES)[0]
        super().__init__(config, seed, dtype, (1, config.size, config.size), SOURCE_CLASSES)

    @override
    def _choose(self, split: str, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids]:
        drawers = seeding.bits(seeds, "drawers", way * count).reshape(len(seeds), way, count)
        return class_seeds(split, seeds, way), drawers

    @override
    def _choose_source(self, seeds: Uint64, count: int) -> tuple[Ids, Ids, Ids]:
        labels = (seeding.uniform(seeds, "joint", count) * SOURCE_CLASSES).astype(np.int64)
        return labels, self._source_classes[labels], seeding.bits(seeds, "drawers", count)

    @override
    def _choose_trajectory(self, seeds: Uint64, way: int, count: int) -> tuple[Ids, Ids, Ids]:
        labels = seeding.choice(seeds, "classes", SOURCE_CLASSES, way)
        drawers = seeding.bits(seeds, "drawers", way * count).reshape(len(seeds), way, count)
        return labels, self._source_classes[labels], drawers

    @override
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        drawings = draw(classes.ravel(), examples.ravel(), self._size, self._jitter)
        return drawings.reshape(*classes.shape, 1, self._size, self._size).astype(self._dtype, copy=False)


def class_seeds(split: str, seeds: Uint64, way: int) -> Uint64:
    """Draw the class seeds of `way` characters of a split for each task: [T, W]."""
    numbers = seeding.bits(seeds, "glyphs", way) >> np.uint64(4)
    return (numbers << np.uint64(2)) | np.uint64(SPLITS.index(split))
