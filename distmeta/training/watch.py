"""What each worker of a run is doing: for `distmeta jobs top`, and for whoever reads Ray's metrics."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from distmeta.runtime.executor import Executor, Result
from distmeta.tracking.base import Tracker
from distmeta.training.incidents import IncidentLog

PATH = "workers/now.json"
"""Artifact with the newest state of the workers."""
INTERVAL_S = 10.0


@dataclass
class _Work:
    """Of one worker, since the workers were last shown."""

    shards: int = 0
    data_wait_s: float = 0.0
    compute_s: float = 0.0


class Watch:
    """Adds up the work of each worker, and shows it every `INTERVAL_S` seconds.

    Args:
        run: Name of the run.
        executor: Whose workers they are.
        tracker: Where the newest state is kept, as `PATH`.
        incidents: Failures by worker and node.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: str,
        executor: Executor,
        tracker: Tracker,
        incidents: IncidentLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._executor, self._tracker, self._incidents = run, executor, tracker, incidents
        self._clock, self._shown_at = clock, -float("inf")
        self._start()

    def _start(self) -> None:
        self._work: dict[int, _Work] = defaultdict(_Work)
        self._elapsed_s, self._tasks, self._steps = 0.0, 0, 0

    def add(self, results: Sequence[Result], elapsed_s: float, tasks: int) -> None:
        """Count one step."""
        self._elapsed_s += elapsed_s
        self._tasks += tasks
        self._steps += 1
        for result in results:
            for part in result.parts:
                work = self._work[part.worker]
                work.shards += 1
                work.data_wait_s += part.data_wait_s
                work.compute_s += part.compute_s

    def show_if_due(self, step: int) -> None:
        """Show the workers if the last time is long enough ago."""
        if self._clock() - self._shown_at >= INTERVAL_S:
            self.show(step)

    def show(self, step: int) -> None:
        """Show what the workers have done since the last time."""
        self._shown_at = self._clock()
        failures_by_worker, failures_by_node = Counter[int](), Counter[str]()
        for (worker, node), count in self._incidents.failures.items():
            failures_by_worker[worker] += count
            failures_by_node[node] += count
        seconds, shares = self._seconds_per_shard(), self._by_worker(failures_by_worker)
        totals = self._totals(step)
        exported = {index: {f"worker_{name}": value for name, value in of.items()} for index, of in shares.items()}
        self._executor.export(self._run, totals, exported)
        now = {
            "run": self._run,
            "time": time.time(),
            "interval_s": INTERVAL_S,
            **totals,
            "failures_by_node": dict(+failures_by_node),
            "workers_now": [
                {**asdict(state), "seconds_per_shard": seconds.get(state.index), **shares[state.index]}
                for state in self._executor.workers()
            ],
        }
        self._tracker.text(json.dumps(now, indent=1) + "\n", PATH)
        self._start()

    def _seconds_per_shard(self) -> dict[int, float]:
        return {worker: work.compute_s / work.shards for worker, work in self._work.items() if work.shards}

    def _totals(self, step: int) -> dict[str, float]:
        """Of the whole run."""
        return {
            "step": float(step),
            "seconds_per_step": self._elapsed_s / max(1, self._steps),
            "tasks_per_s": self._tasks / max(self._elapsed_s, 1e-9),
            "workers": float(self._executor.num_workers),
            **{name: float(count) for name, count in self._incidents.counts().items()},
        }

    def _by_worker(self, failures: Counter[int]) -> dict[int, dict[str, float]]:
        """Of each worker, active or not."""
        elapsed_s, seconds = max(self._elapsed_s, 1e-9), self._seconds_per_shard()
        typical_s = statistics.median_low(seconds.values()) if seconds else 0.0
        shares: dict[int, dict[str, float]] = {}
        for state in self._executor.workers():
            work = self._work.get(state.index, _Work())
            shares[state.index] = {
                "shards": float(work.shards),
                "busy_share": work.compute_s / elapsed_s,
                "data_wait_share": work.data_wait_s / elapsed_s,
                "times_typical": seconds.get(state.index, 0.0) / typical_s if typical_s else 0.0,
                "failures": float(failures[state.index]),
            }
        return shares
