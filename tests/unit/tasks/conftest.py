"""A small store whose pixels encode the class and the example of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distmeta.data.store import ClassStore, write_store

COUNTS = (6, 9, 7, 6, 8, 6, 10, 6, 6, 7, 6, 6)
SIDE = 4
SPLITS = {"mixed": {"train": [7, 0, 2, 5, 9, 11], "val": [1, 4, 6], "test": [3, 8, 10]}}
StoreMaker = Callable[..., ClassStore]


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """Factory of stores: pixel (0, 0) holds the class + 1, (0, 1) the example + 1, (1, 0) is 200, all others are 0."""

    def make(name: str = "small", width: int = SIDE, splits: dict[str, dict[str, list[int]]] = SPLITS) -> ClassStore:
        images = np.zeros((sum(COUNTS), 1, SIDE, width), dtype=np.uint8)
        images[:, 0, 0, 0] = np.repeat(np.arange(len(COUNTS)), COUNTS) + 1
        images[:, 0, 0, 1] = np.concatenate([np.arange(count) for count in COUNTS]) + 1
        images[:, 0, 1, 0] = 200
        names = [f"class{index:02d}" for index in range(len(COUNTS))]
        return write_store(tmp_path / name, images, class_names=names, class_counts=COUNTS, splits=splits)

    return make


@pytest.fixture
def store(make_store: StoreMaker) -> ClassStore:
    """The store with the split set `mixed`."""
    return make_store()
