"""Throughput since the last logged step."""

from __future__ import annotations

from collections.abc import Sequence

from distmeta.runtime.executor import Result


class Rates:
    """Sums over some steps."""

    def __init__(self) -> None:
        self._elapsed_s = self._data_wait_s = self._compute_s = self._worker_s = 0.0
        self._tasks = 0

    def add(self, results: Sequence[Result], elapsed_s: float, tasks: int, workers: int) -> None:
        """Count one step."""
        self._elapsed_s += elapsed_s
        self._tasks += tasks
        self._worker_s += elapsed_s * workers
        self._data_wait_s += sum(result.data_wait_s for result in results)
        self._compute_s += sum(result.compute_s for result in results)

    def metrics(self) -> dict[str, float]:
        """Tasks per second; shares of the workers' time."""
        return {
            "tasks_per_s": self._tasks / max(self._elapsed_s, 1e-9),
            "data_wait_share": self._data_wait_s / max(self._worker_s, 1e-9),
            "worker_busy_share": self._compute_s / max(self._worker_s, 1e-9),
        }
