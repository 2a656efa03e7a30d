"""How fast workers are: the median of their newest shards, in seconds a task, for each kind of work."""

from __future__ import annotations

import statistics
from collections import deque

FEWEST_SAMPLES = 3
"""Shards of a kind that have to be done, by whomever, before anything is said about it."""
NEWEST_SAMPLES = 5
SLOW = 1.5
"""A worker is slow if it needs this many times what the typical one needs."""


class Paces:
    """What is known about the workers."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[int, deque[float]]] = {}
        self._medians: dict[str, dict[int, float]] = {}
        self._typical: dict[str, float | None] = {}

    def record(self, kind: str, worker: int, seconds: float) -> None:
        """A worker has needed `seconds` a task."""
        samples = self._samples.setdefault(kind, {}).setdefault(worker, deque(maxlen=NEWEST_SAMPLES))
        samples.append(seconds)
        self._medians.setdefault(kind, {})[worker] = statistics.median(samples)
        self._typical.pop(kind, None)

    def forget(self, worker: int) -> None:
        """A worker is gone, or is to be taken for a typical one."""
        for kind in self._samples:
            self._samples[kind].pop(worker, None)
            self._medians[kind].pop(worker, None)
        self._typical.clear()

    def of(self, kind: str, worker: int) -> float | None:
        """A worker's pace; that of the typical one if it has done nothing yet; None if nothing is known."""
        return self._medians.get(kind, {}).get(worker) or self.typical(kind)

    def typical(self, kind: str) -> float | None:
        """The pace of the worker in the middle; None if too little is known."""
        if kind not in self._typical:
            enough = sum(map(len, self._samples.get(kind, {}).values())) >= FEWEST_SAMPLES
            self._typical[kind] = statistics.median_low(self._medians[kind].values()) if enough else None
        return self._typical[kind]

    def slow(self, kind: str, worker: int) -> bool:
        """Whether a worker is known to be much slower than the typical one."""
        pace, typical = self.of(kind, worker), self.typical(kind)
        return pace is not None and typical is not None and pace > SLOW * typical
