"""Checkpoints."""

from __future__ import annotations

from distmeta.config.base import Frozen
from distmeta.config.bounds import PositiveCount, Url


class CheckpointConfig(Frozen):
    """Checkpoints.

    Attributes:
        path: Folder (any fsspec URL) with one folder for each run name.
        every: Outer steps between checkpoints; the last step is always saved.
        keep_last: Number of newest checkpoints to keep, in addition to the best one by validation score.
    """

    path: Url = "runs"
    every: PositiveCount = 500
    keep_last: PositiveCount = 2
