"""Checkpoints."""

from __future__ import annotations

from pydantic import PositiveInt

from distmeta.config.base import Frozen


class CheckpointConfig(Frozen):
    """Checkpoints.

    Attributes:
        path: Folder (any fsspec URL) that holds a folder for each run name.
        every: Outer steps between two checkpoints; the last step is always saved.
        keep_last: Checkpoints kept, the newest ones; the best one by validation is kept besides.
    """

    path: str = "runs"
    every: PositiveInt = 500
    keep_last: PositiveInt = 2
