"""How fast workers are: the median of their newest shards, in seconds a task, for each kind of work."""

from __future__ import annotations

import statistics
from collections import deque

from distmeta.core.types import Work

FEWEST_SAMPLES = 3
"""Shards of a work that have to be done, by whomever, before anything is said about it."""
NEWEST_SAMPLES = 5
SLOW = 1.5
"""A worker is slow if it needs this many times what the typical one needs."""


class Paces:
    """What is known about the workers."""

    def __init__(self) -> None:
        self._samples: dict[Work, dict[int, deque[float]]] = {}
        self._medians: dict[Work, dict[int, float]] = {}
        self._typical: dict[Work, float | None] = {}

    def record(self, work: Work, worker: int, seconds: float) -> None:
        """A worker has needed `seconds` a task."""
        samples = self._samples.setdefault(work, {}).setdefault(worker, deque(maxlen=NEWEST_SAMPLES))
        samples.append(seconds)
        self._medians.setdefault(work, {})[worker] = statistics.median(samples)
        self._typical.pop(work, None)

    def forget(self, worker: int) -> None:
        """A worker is gone, or is to be taken for a typical one."""
        for work in self._samples:
            self._samples[work].pop(worker, None)
            self._medians[work].pop(worker, None)
        self._typical.clear()

    def of(self, work: Work, worker: int) -> float | None:
        """A worker's pace; that of the typical one if it has done nothing yet; None if nothing is known."""
        return self._medians.get(work, {}).get(worker) or self.typical(work)

    def typical(self, work: Work) -> float | None:
        """The pace of the worker in the middle; None if too little is known."""
        if work not in self._typical:
            enough = sum(map(len, self._samples.get(work, {}).values())) >= FEWEST_SAMPLES
            self._typical[work] = statistics.median_low(self._medians[work].values()) if enough else None
        return self._typical[work]

    def slow(self, work: Work, worker: int) -> bool:
        """Whether a worker is known to be much slower than the typical one."""
        pace, typical = self.of(work, worker), self.typical(work)
        return pace is not None and typical is not None and pace > SLOW * typical
