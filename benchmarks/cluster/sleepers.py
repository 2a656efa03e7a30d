"""A program that sleeps instead of computing, so that more workers than cores run at once; one of them sleeps longer.

Tells what the scheduler is worth by itself: a shard's time is known exactly.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distmeta.core.types import Report, Shard, Snapshot, Update


@dataclass(frozen=True)
class Sleeper:
    """Sleeps for `seconds`; its update is a function of snapshot and shard."""

    seconds: float

    def prepare(self, kind: str, shard: Shard) -> None:
        """Nothing is to be prepared."""

    def run(self, kind: str, snapshot: Snapshot, shard: Shard) -> Report:
        """Sleep."""
        time.sleep(self.seconds)
        factor = 1.0 + shard.index
        grad = {name: tensor * factor for name, tensor in snapshot.params.items()}
        return Report(snapshot.version, shard.index, Update(grad, float(len(shard.specs)), {"loss": factor}))

    def timing(self) -> Mapping[str, float]:
        """All of it is computing."""
        return {"data_wait_s": 0.0, "compute_s": self.seconds}


@dataclass(frozen=True)
class SleeperRecipe:
    """Makes a `Sleeper` of `seconds`; one worker's sleeps `slowdown` times as long.

    Attributes:
        seconds: Of a shard.
        slowdown: Of the worker that comes first; 1 leaves all alike.
        folder: Where that worker holds a lock, as long as it lives.
    """

    seconds: float
    slowdown: float = 1.0
    folder: str = ""

    def build(self) -> Sleeper:
        """Make the program; the first process that asks is the slow one."""
        slow = self.slowdown != 1.0 and self._first()
        return Sleeper(self.seconds * (self.slowdown if slow else 1.0))

    def _first(self) -> bool:
        lock = os.open(Path(self.folder) / "slow", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        return True
