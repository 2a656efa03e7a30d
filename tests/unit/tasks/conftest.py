"""Small stores whose numbers encode the class and the example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distmeta.data.store import ClassStore, write_store

COUNTS = (6, 9, 7, 6, 8, 6, 10, 6, 6, 7, 6, 6)
OUTSIDE_TEXTS = 28
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


@pytest.fixture
def vectors(tmp_path: Path) -> ClassStore:
    """A store of vectors (class + 1, example + 1, 7)."""
    rows = [(index + 1, example + 1, 7) for index, count in enumerate(COUNTS) for example in range(count)]
    names = [f"class{index:02d}" for index in range(len(COUNTS))]
    return write_store(
        tmp_path / "vectors", np.array(rows, dtype=np.float32), class_names=names, class_counts=COUNTS, splits=SPLITS
    )


def text_of(index: int, example: int) -> str:
    """Class in 4 and example in 6 words `a` (0) and `b` (1), then a number of `z` that differs from text to text."""
    bits = "".join("ab"[number >> place & 1] for number, width in ((index, 4), (example, 6)) for place in range(width))
    return " ".join(bits) + " z" * ((5 * index + 3 * example) % 29)


@pytest.fixture
def texts(tmp_path: Path) -> ClassStore:
    """A store of texts that say their class and example; 2 + 10 to 38 tokens each. Class `oos` is in no split."""
    counts = (*COUNTS, OUTSIDE_TEXTS)
    names = [*(f"class{index:02d}" for index in range(len(COUNTS))), "oos"]
    rows = [text_of(index, example) for index, count in enumerate(counts) for example in range(count)]
    return write_store(tmp_path / "texts", rows, class_names=names, class_counts=counts, splits=SPLITS)


@pytest.fixture
def table(tmp_path: Path) -> ClassStore:
    """A table of inputs (group + 1, row + 1, 7) and targets (group + row, group * row)."""
    rows = [
        (index + 1, row + 1, 7, index + row, index * row) for index, count in enumerate(COUNTS) for row in range(count)
    ]
    return write_store(
        tmp_path / "table",
        np.array(rows, dtype=np.float64),
        class_names=[f"group{index:02d}" for index in range(len(COUNTS))],
        class_counts=COUNTS,
        splits=SPLITS,
        num_targets=2,
    )
