"""What all sources of tasks from a store share: the split set, and the scaling of numbers.

Shapes: M rows of a store, C classes or groups of a split, D numbers of an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distmeta.core.errors import UserError
from distmeta.data.store import ClassStore

SOURCE_OF = {"image": "images", "vector": "vectors", "text": "texts", "table": "table"}
"""`tasks.source` for each kind of store."""
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class Scaling:
    """`(x - mean) / scale` for each of D numbers.

    Attributes:
        mean: [D].
        scale: [D] standard deviations; 1 where a number is the same in all rows.
    """

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Scale values [..., D]."""
        with np.errstate(over="ignore"):  # rows outside of training may be much larger
            scaled: npt.NDArray[np.float64] = (values - self.mean) / self.scale
        return scaled


def scaling_of(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Scaling:
    """The scaling to mean 0 and standard deviation 1 over some rows.

    Args:
        values: [M, D], which may be mapped: only a block of it is in memory at a time.
        rows: Rows to take the statistics of.

    Raises:
        UserError: There are none, or they are too large to square, or not numbers.
    """
    if not len(rows):
        what = "split 'train' has no examples to standardise by"
        raise UserError(what, where="tasks.standardise", allowed="false, or a split set with training classes")
    blocks = [rows[start : start + _BLOCK_ROWS] for start in range(0, len(rows), _BLOCK_ROWS)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(values[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(rows)
        squares = sum(np.square(values[block] - mean).sum(axis=0) for block in blocks)
        deviation = np.sqrt(squares / len(rows))
    if not np.isfinite(deviation).all():
        column = int(np.argmin(np.isfinite(deviation)))
        what = f"the numbers of input {column} in split 'train' have no finite standard deviation"
        raise UserError(what, where="tasks.standardise", allowed="false, or numbers that can be squared")
    return Scaling(mean, np.where(deviation > 0, deviation, 1.0))


def rows_of(store: ClassStore, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows of all examples of some classes or groups."""
    offsets = store.class_offsets
    parts = [np.arange(offsets[index], offsets[index + 1]) for index in classes]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def split_set_of(name: str | None, store: ClassStore) -> str:
    """Name of the split set to use: the configured one, or the only one.

    Raises:
        UserError: No such split set, or none is configured and there are several.
    """
    if name is not None:
        store.split(name, "train")  # raises if there is no such split set
        return name
    if len(store.splits) != 1:
        raise UserError(
            f"data '{store.name}' has {len(store.splits)} split sets and none is configured",
            where="tasks.split_set",
            allowed=", ".join(sorted(store.splits)) or "import the data with a split set",
        )
    return next(iter(store.splits))
