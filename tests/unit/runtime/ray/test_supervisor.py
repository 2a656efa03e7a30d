"""The supervisor acts on decisions: which worker it stops, restarts or excludes, and which shard is assigned again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from typing_extensions import override

from distmeta.config import ToleranceConfig
from distmeta.core.errors import UserError, WorkerError
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.executor import Executor, Feed, Result
from distmeta.runtime.messages import Location
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.call import CallState
from distmeta.runtime.ray.supervisor import (
    CHECK_INTERVAL_S,
    NO_WORKERS_TIMEOUT_S,
    NODE_CHECK_INTERVAL_S,
    START_TIMEOUT_S,
    Supervisor,
)
from distmeta.runtime.ray.worker_handle import RankHandle, WorkerHandle

from ....fakes import make_shards

UPDATE = Work("update")


class FakeWorkerGroup:
    """Does at once what it is asked, and keeps a record of it."""

    def __init__(self, num_workers: int) -> None:
        self.workers = [WorkerHandle(index) for index in range(num_workers)]
        self.silent: set[int] = set()
        self.overdue: set[int] = set()
        self.draining: set[str] = set()
        self.log: list[tuple[Any, ...]] = []
        for worker in self.workers:
            worker.created([f"actor {worker.index}"], 0.0)
            worker.enter("ready", 0.0)
            worker.ranks[0].location = Location(f"node-{worker.index}", "127.0.0.1", 100 + worker.index)

    def active(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.is_active]

    def send_heartbeats(self) -> None:
        self.log.append(("heartbeats",))

    def start_due(self) -> None:
        self.log.append(("start_due",))

    def silent_rank(self, worker: WorkerHandle) -> RankHandle | None:
        return worker.ranks[0] if worker.index in self.silent else None

    def is_overdue(self, worker: WorkerHandle, timeout_s: float) -> bool:
        return worker.index in self.overdue

    def draining_nodes(self) -> set[str]:
        return self.draining

    def cancel(self, worker: WorkerHandle, key: ShardKey) -> None:
        self.log.append(("cancel", worker.index, key))

    def stop(self, worker: WorkerHandle, *, force: bool = False) -> None:
        self.log.append(("kill" if force else "stop", worker.index))
        self.silent.discard(worker.index)
        self.overdue.discard(worker.index)
        worker.stopped()

    def restart(self, worker: WorkerHandle, after_s: float) -> None:
        self.log.append(("restart", worker.index, after_s))
        worker.state = "backoff"


class FakeExecutor(Executor):
    """Counts and keeps incidents, and nothing else."""

    @property
    @override
    def num_workers(self) -> int:
        return 0

    @override
    def ready(self) -> None: ...

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        return iter(())

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        return iter(())

    @override
    def recompute(self, result: Result) -> None: ...

    @override
    def close(self) -> None: ...


@dataclass
class Run:
    """A supervisor with a call of four shards under way, two on each of two workers."""

    tolerance: ToleranceConfig = field(default_factory=ToleranceConfig)
    num_workers: int = 2
    now: float = 0.0
    lost_workers: list[int] = field(default_factory=list)
    lost_objects: int = 0

    def __post_init__(self) -> None:
        self.group, self.schedule, self.executor = FakeWorkerGroup(self.num_workers), Schedule(), FakeExecutor()
        self.supervisor = Supervisor(
            self.tolerance,
            self.group,  # type: ignore[arg-type]
            self.schedule,
            self.executor,
            on_worker_lost=self.lost_workers.append,
            on_object_lost=self._count_lost_object,
            clock=lambda: self.now,
        )
        for worker in self.group.workers:
            self.schedule.add_worker(worker.index, worker.node_id)
        shards = make_shards(4)
        self.schedule.start(UPDATE, shards)
        self.supervisor.call = CallState(1, UPDATE, {shard.index: (shard, Snapshot(0, {})) for shard in shards}, 4)
        for worker, shard in self.assign():
            self.group.workers[worker].enqueue((1, shard), self.now)

    def _count_lost_object(self) -> None:
        self.lost_objects += 1

    def assign(self) -> list[tuple[int, int]]:
        return [(each.worker, each.shard.index) for each in self.schedule.assign(self.now)]

    def fail(self, worker: int, kind: str, shard: int | None = None, call_id: int = 1, **fields: Any) -> None:
        failure = Failure(kind, worker, f"{kind}!", "the traceback")  # type: ignore[arg-type]
        key = None if shard is None else (call_id, shard)
        self.supervisor.handle_failure(self.group.workers[worker], failure, fields.pop("error", None), key, **fields)

    def check_after(self, seconds: float) -> None:
        self.now += seconds
        self.supervisor.check()

    def outcomes(self) -> list[tuple[str, int, int | None, str]]:
        return [(each.kind, each.worker, each.shard, each.outcome) for each in self.executor.incidents()]


def test_a_dead_worker_is_restarted_and_its_shards_go_to_the_other() -> None:
    run = Run()
    run.fail(0, "worker_died", shard=0)
    assert run.group.log == [("stop", 0), ("restart", 0, 0.0)]
    assert run.lost_workers == [0]
    assert run.schedule.workers == (1,)
    run.schedule.finished(1, (1, 1), 1.0)
    run.schedule.finished(1, (1, 3), 2.0)
    assert run.assign() == [(1, 0), (1, 2)]
    assert run.outcomes() == [("worker_died", 0, 0, "restart")]
    assert (run.executor.counts["restarts"], run.executor.counts["retries"]) == (1, 1)


def test_a_lost_object_costs_no_worker_but_the_snapshot_is_put_again() -> None:
    run = Run()
    run.fail(0, "object_lost", shard=0)
    assert (run.group.log, run.lost_workers, run.lost_objects) == ([], [], 1)
    assert run.schedule.workers == (0, 1)
    assert run.outcomes() == [("object_lost", 0, 0, "retry")]
    assert (run.executor.counts["restarts"], run.executor.counts["retries"]) == (0, 1)


def test_failures_at_shards_of_an_earlier_call_are_charged_to_no_shard() -> None:
    run = Run()
    run.fail(0, "worker_died", shard=0, call_id=0)
    assert run.supervisor.call.failures == {}
    assert run.outcomes() == [("worker_died", 0, None, "restart")]
    assert run.executor.counts["retries"] == 0


def test_a_shard_that_fails_too_often_ends_the_run() -> None:
    run = Run(ToleranceConfig(max_shard_retries=1))
    run.fail(0, "object_lost", shard=0)
    with pytest.raises(WorkerError, match=r"shard 0 failed 2 times \(runtime.tolerance.max_shard_retries is 1\)"):
        run.fail(0, "object_lost", shard=0)
    assert [outcome for _, _, _, outcome in run.outcomes()] == ["retry", "abort"]


def test_a_lost_report_counts_against_its_shard_and_is_requeued_by_the_caller() -> None:
    run = Run(ToleranceConfig(max_shard_retries=1))
    run.schedule.finished(0, (1, 0), 1.0)
    run.fail(0, "object_lost", shard=0, reported=True)
    assert run.assign() == []
    with pytest.raises(WorkerError, match="shard 0 failed 2 times"):
        run.fail(1, "object_lost", shard=0, reported=True)


def test_backoff_grows_and_a_worker_that_keeps_failing_is_excluded() -> None:
    run = Run(ToleranceConfig(max_worker_failures=4))
    for _ in range(4):
        run.fail(0, "worker_died")
    assert [entry for entry in run.group.log if entry[0] == "restart"] == [
        ("restart", 0, 0.0),
        ("restart", 0, 1.0),
        ("restart", 0, 2.0),
    ]
    assert run.group.workers[0].state == "excluded"
    assert run.outcomes()[-2:] == [("worker_died", 0, None, "excluded"), ("excluded", 0, None, "")]
    assert (run.executor.counts["excluded"], run.executor.counts["restarts"]) == (1, 3)


def test_the_last_worker_that_keeps_failing_ends_the_run() -> None:
    run = Run(ToleranceConfig(max_worker_failures=1), num_workers=1)
    run.fail(0, "worker_died")
    with pytest.raises(WorkerError, match="worker 0 failed 2 times in a row"):
        run.fail(0, "worker_died")
    assert [outcome for _, _, _, outcome in run.outcomes()] == ["restart", "abort"]


def test_an_error_that_the_user_has_to_fix_is_raised_as_it_is() -> None:
    run = Run()
    error = RayTaskError("run", "Traceback\nUserError: no image", UserError("'x' is no image", where="store"))
    with pytest.raises(UserError, match=r"^store: 'x' is no image$"):
        run.fail(0, "user_error", shard=0, error=error)


@pytest.mark.parametrize(("kind", "trouble"), [("silent", "silent"), ("timed_out", "overdue")])
def test_the_process_of_a_worker_that_does_not_answer_is_killed(kind: str, trouble: str) -> None:
    run = Run()
    getattr(run.group, trouble).add(1)
    run.check_after(CHECK_INTERVAL_S)
    assert run.group.log == [("heartbeats",), ("start_due",), ("kill", 1), ("restart", 1, 0.0)]
    [incident] = run.executor.incidents()
    assert (incident.kind, incident.worker, incident.node) == (kind, 1, "127.0.0.1 (node-1)")
    assert incident.shard == (1 if trouble == "overdue" else None)
    assert "runtime.tolerance." in incident.detail


def test_a_worker_that_does_not_start_is_replaced() -> None:
    run = Run()
    run.group.workers[0].enter("starting", 0.0)
    run.check_after(START_TIMEOUT_S)
    assert ("kill", 0) not in run.group.log
    run.check_after(CHECK_INTERVAL_S)
    assert ("kill", 0) in run.group.log
    assert run.outcomes() == [("timed_out", 0, None, "restart")]


def test_checks_are_made_at_intervals() -> None:
    run = Run()
    run.check_after(CHECK_INTERVAL_S / 2)
    assert run.group.log == []
    run.check_after(CHECK_INTERVAL_S / 2)
    assert run.group.log == [("heartbeats",), ("start_due",)]


def test_a_run_without_active_workers_ends_after_a_timeout() -> None:
    run = Run()
    run.check_after(10.0)
    for worker in run.group.workers:
        worker.enter("pending", run.now)
    run.check_after(NO_WORKERS_TIMEOUT_S)
    with pytest.raises(WorkerError, match="no worker has been active for 600 s"):
        run.check_after(CHECK_INTERVAL_S)


def test_a_worker_on_a_draining_node_finishes_its_shard_and_restarts() -> None:
    run = Run()
    run.group.draining = {"node-0"}
    run.check_after(NODE_CHECK_INTERVAL_S)
    assert run.group.workers[0].state == "draining"
    assert run.group.log[2:] == [("cancel", 0, (1, 2))]
    assert run.outcomes() == [("left", 0, None, "")]
    assert run.schedule.workers == (1,)
    run.schedule.finished(0, (1, 0), run.now)
    run.group.log.clear()
    run.check_after(NODE_CHECK_INTERVAL_S)
    assert run.group.log[2:] == [("stop", 0), ("restart", 0, 0.0)]
    assert (run.executor.counts["left"], run.executor.counts["restarts"]) == (1, 0)
