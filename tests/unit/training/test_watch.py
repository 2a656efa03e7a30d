"""What a run shows of its workers while it goes on."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from distmeta.runtime.executor import Incident, Result, WorkerState
from distmeta.runtime.messages import Span
from distmeta.tracking.console import Progress
from distmeta.training.incidents import IncidentLog
from distmeta.training.watch import INTERVAL_S, PATH, Watch

from ...fakes_training import FakeExecutor, FakeTracker


class ThreeWorkers(FakeExecutor):
    """The third one waits for its restart. Remembers what it is given to export."""

    exported: list[tuple[dict[str, float], dict[int, dict[str, float]]]]

    def workers(self) -> list[WorkerState]:
        return [WorkerState(0, "ready", "a"), WorkerState(1, "ready", "b", leader=4), WorkerState(2, "backoff", "b")]

    def export(self, run: str, metrics: Any, by_worker: Any) -> None:
        self.exported = [*getattr(self, "exported", []), (dict(metrics), dict(by_worker))]


class Setup:
    def __init__(self) -> None:
        self.executor, self.tracker, self.time_s = ThreeWorkers(workers=2), FakeTracker(), 100.0
        progress = Progress(10, quiet=True, console=Console(file=io.StringIO()))
        self.incidents = IncidentLog(self.executor, self.tracker, progress, 0, {})
        self.watch = Watch("run", self.executor, self.tracker, self.incidents, clock=lambda: self.time_s)

    @property
    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.tracker.texts[PATH])
        return shown


def test_the_work_of_each_worker_is_shown() -> None:
    setup = Setup()
    results = [Result(0, None, 0, 0.5, 2.0), Result(1, None, 0, 0.5, 1.0), Result(2, None, 1, 0.0, 4.0)]
    setup.watch.add(results, 8.0, 24)
    setup.watch.show_if_due(7)
    shown = setup.shown
    assert (shown["run"], shown["step"], shown["tasks_per_s"], shown["seconds_per_step"]) == ("run", 7.0, 3.0, 8.0)
    first, second, third = shown["workers_now"]
    assert (first["shards"], first["busy_share"], first["data_wait_share"]) == (2.0, 0.375, 0.125)
    assert (first["seconds_per_shard"], second["seconds_per_shard"], third["seconds_per_shard"]) == (1.5, 4.0, None)
    assert (second["node"], second["leader"], third["state"], third["shards"]) == ("b", 4, "backoff", 0.0)
    assert second["times_typical"] == pytest.approx(4.0 / 1.5)


def test_shards_of_a_sum_count_for_the_workers_that_computed_them() -> None:
    setup = Setup()
    spans = (Span(0, 0.0, 1.0), Span(1, 0.0, 1.0), Span(1, 0.0, 2.0))
    setup.watch.add([Result(0, None, 0, 0.0, 4.0, spans)], 4.0, 3)
    setup.watch.show(1)
    assert [worker["shards"] for worker in setup.shown["workers_now"]] == [1.0, 2.0, 0.0]
    assert [worker["busy_share"] for worker in setup.shown["workers_now"]] == [0.25, 0.75, 0.0]


def test_failures_are_counted_by_worker_and_by_node() -> None:
    setup = Setup()
    for node in ("b", "b", "c"):
        setup.executor.record(Incident("worker_died", 2, node, None, "gone"))
    setup.executor.record(Incident("joined", 1, "b", None, "is ready"))
    setup.incidents.flush(1)
    setup.watch.show(1)
    assert setup.shown["failures_by_node"] == {"b": 2, "c": 1}
    assert [worker["failures"] for worker in setup.shown["workers_now"]] == [0.0, 0.0, 3.0]


def test_it_is_shown_every_few_seconds_and_starts_anew_each_time() -> None:
    setup = Setup()
    work = [Result(0, None, 0, 0.0, 1.0)]
    for seconds, expected in ((0.0, 1), (INTERVAL_S / 2, 1), (INTERVAL_S / 2, 2)):
        setup.time_s += seconds
        setup.watch.add(work, 1.0, 1)
        setup.watch.show_if_due(1)
        assert len(setup.executor.exported) == expected
    metrics, by_worker = setup.executor.exported[-1]
    assert (metrics["tasks_per_s"], metrics["restarts"]) == (1.0, 0.0)
    assert by_worker[0]["worker_shards"] == 2.0  # of the two steps since
