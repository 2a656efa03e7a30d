"""How fast workers are: seconds per task, the median of each worker's newest shards."""

from __future__ import annotations

import bisect
import statistics
from collections import deque

MIN_SAMPLES = 3
"""Shards that must have been computed, by all workers together, before anything is known."""
WINDOW = 5
"""Newest shards of a worker that count."""
SLOW_FACTOR = 1.5
"""A worker is slow if it needs this many times what the typical worker needs."""


class Throughput:
    """Seconds per task of each worker, for one kind of work."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._sorted: list[float] = []
        self._num_samples = 0

    def record(self, worker: int, seconds_per_task: float) -> None:
        """Record a finished shard."""
        samples = self._samples.setdefault(worker, deque(maxlen=WINDOW))
        self._num_samples += len(samples) < WINDOW
        samples.append(seconds_per_task)
        self._forget_median(worker)
        self._medians[worker] = statistics.median(samples)
        bisect.insort(self._sorted, self._medians[worker])

    def remove(self, worker: int) -> None:
        """Remove a worker's samples, so that it counts as a typical one."""
        self._num_samples -= len(self._samples.pop(worker, ()))
        self._forget_median(worker)

    def seconds_per_task(self, worker: int) -> float | None:
        """What a worker needs; what the typical one needs if it has no samples; None if nothing is known."""
        return self._medians.get(worker) or self.typical()

    def typical(self) -> float | None:
        """Seconds per task of the median worker; None if there are fewer than `MIN_SAMPLES`."""
        return self._sorted[(len(self._sorted) - 1) // 2] if self._num_samples >= MIN_SAMPLES else None

    def is_slow(self, worker: int) -> bool:
        """Whether a worker is much slower than the typical one."""
        seconds, typical = self.seconds_per_task(worker), self.typical()
        return seconds is not None and typical is not None and seconds > SLOW_FACTOR * typical

    def _forget_median(self, worker: int) -> None:
        median = self._medians.pop(worker, None)
        if median is not None:
            del self._sorted[bisect.bisect_left(self._sorted, median)]
