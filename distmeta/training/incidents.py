"""The record of what happened to a run besides training: counted, printed, and kept with the run."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, deque
from collections.abc import Mapping

from distmeta.runtime.executor import Executor, Incident
from distmeta.tracking.base import Tracker
from distmeta.tracking.console import Progress

COUNT = "count/"
"""Prefix of the counts in a checkpoint's progress."""
_MAX_LINES = 1000


class IncidentLog:
    """Passes the executor's incidents on to the terminal and to the tracker, and adds up counts over resumptions.

    Args:
        executor: Where incidents come from.
        tracker: Where they are stored: `incidents/from-step-<first>-<resumes>.jsonl`, and `workers/worker-<n>.txt` with
            the last traceback of a worker.
        progress: Where they are printed.
        step: Outer steps made before this process.
        before: Progress of the checkpoint that the run is resumed from.
    """

    def __init__(
        self, executor: Executor, tracker: Tracker, progress: Progress, step: int, before: Mapping[str, float]
    ) -> None:
        self._executor, self._tracker, self._progress = executor, tracker, progress
        self._before = {name.removeprefix(COUNT): int(n) for name, n in before.items() if name.startswith(COUNT)}
        self._path = f"incidents/from-step-{step:08d}-{self._before.get('resumes', 0)}.jsonl"
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self.failures: Counter[tuple[int, str]] = Counter()
        """Failures since this process started, by worker and node."""

    def counts(self) -> dict[str, int]:
        """Counts over the whole run; restarts, retries and copies are listed even if they are 0."""
        now = self._executor.counts
        names = dict.fromkeys(("restarts", "retries", "copies", *self._before, *now))
        return {name: self._before.get(name, 0) + now.get(name, 0) for name in names}

    def progress(self) -> dict[str, float]:
        """The counts for a checkpoint."""
        return {COUNT + name: float(count) for name, count in self.counts().items() if count}

    def flush(self, step: int) -> None:
        """Print and store the incidents since the last call."""
        new = self._executor.incidents()
        for incident in new:
            self._progress.note(f"step {step}: {_line(incident)}")
            self._lines.append(json.dumps({"step": step, **dataclasses.asdict(incident)}))
            self.failures[incident.worker, incident.node] += incident.is_failure
            if incident.traceback:
                self._tracker.text(
                    f"{_line(incident)}\n\n{incident.traceback}\n", f"workers/worker-{incident.worker}.txt"
                )
        if new:
            self._tracker.text("\n".join(self._lines) + "\n", self._path)


def _line(incident: Incident) -> str:
    place = f"worker {incident.worker}" + (f" on {incident.node}" if incident.node else "")
    shard = "" if incident.shard is None else f", shard {incident.shard}"
    outcome = f" -> {incident.outcome}" if incident.outcome else ""
    return f"{place}{shard}: {incident.kind}: {incident.detail}{outcome}"
