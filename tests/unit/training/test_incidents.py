"""Incidents of a run: printed, stored and counted."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from distmeta.runtime.executor import Incident
from distmeta.tracking.console import Progress
from distmeta.training import incidents as module
from distmeta.training.incidents import IncidentLog

from ...fakes_training import FakeExecutor, FakeTracker

DIED = Incident("worker_died", 2, "node-a", 5, "killed by signal 9", "retry", "Traceback ...\nKilled")
LEFT = Incident("left", 3, "", None, "the node is being drained")


class Setup:
    """An incident log with its fakes; `printed` is what the terminal shows."""

    def __init__(self, step: int = 0, before: dict[str, float] | None = None) -> None:
        self._output = io.StringIO()
        self.executor, self.tracker = FakeExecutor(), FakeTracker()
        progress = Progress(10, quiet=True, console=Console(file=self._output, width=200))
        self.log = IncidentLog(self.executor, self.tracker, progress, step, before or {})

    @property
    def printed(self) -> list[str]:
        return self._output.getvalue().splitlines()


def test_new_incidents_are_printed_and_stored_once() -> None:
    setup = Setup(step=40)
    setup.log.flush(40)
    assert (setup.printed, setup.tracker.texts) == ([], {})
    setup.executor.record(DIED)
    setup.executor.record(LEFT)
    setup.log.flush(41)
    setup.log.flush(42)
    assert setup.printed == [
        "step 41: worker 2 on node-a, shard 5: worker_died: killed by signal 9 -> retry",
        "step 41: worker 3: left: the node is being drained",
    ]
    assert set(setup.tracker.texts) == {"incidents/from-step-00000040-0.jsonl", "workers/worker-2.txt"}
    assert setup.tracker.texts["workers/worker-2.txt"].endswith("-> retry\n\nTraceback ...\nKilled\n")


def test_the_stored_file_holds_all_incidents_so_far() -> None:
    setup = Setup()
    for step in (1, 2):
        setup.executor.record(LEFT)
        setup.log.flush(step)
    [text] = setup.tracker.texts.values()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0] == {"step": 1, **vars(LEFT)}


def test_the_stored_file_is_limited_to_the_newest_incidents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LINES", 3)
    setup = Setup()
    for step in range(5):
        setup.executor.record(LEFT)
        setup.log.flush(step)
    [text] = setup.tracker.texts.values()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [2, 3, 4]


def test_counts_start_at_zero_and_include_every_kind() -> None:
    setup = Setup()
    assert setup.log.counts() == {"restarts": 0, "retries": 0, "copies": 0}
    assert setup.log.progress() == {}
    setup.executor.record(DIED)
    setup.executor.record(DIED)
    setup.executor.counts["retries"] += 2
    assert setup.log.counts() == {"restarts": 0, "retries": 2, "copies": 0, "worker_died": 2}
    assert setup.log.progress() == {"count/retries": 2.0, "count/worker_died": 2.0}


def test_counts_go_on_in_a_resumed_run() -> None:
    before = {"count/retries": 3.0, "count/resumes": 1.0, "train_s": 12.5}
    setup = Setup(step=7, before=before)
    setup.executor.counts["retries"] += 1
    setup.executor.counts["resumes"] += 1
    assert setup.log.counts() == {"restarts": 0, "retries": 4, "copies": 0, "resumes": 2}
    assert setup.log.progress() == {"count/retries": 4.0, "count/resumes": 2.0}
    setup.executor.record(LEFT)
    setup.log.flush(8)
    assert list(setup.tracker.texts) == ["incidents/from-step-00000007-1.jsonl"], "not the file of the first resume"
