"""The actors of a run, on a fake Ray: open calls, stops, restarts, heartbeats."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.types import Snapshot, Work
from distmeta.runtime.messages import Location
from distmeta.runtime.policy.schedule import Assignment
from distmeta.runtime.ray import worker_group as worker_group_module
from distmeta.runtime.ray.cluster import Cluster
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.wire import encode_snapshot

from ....fakes import FakeRecipe, make_params, make_shards
from .fake_ray import FakeRay, install

SHARDS = make_shards(4)
NEVER = 0.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    install(monkeypatch, ray)
    return ray


def make_group(clock: Clock, num_workers: int = 2) -> WorkerGroup:
    config = RuntimeConfig(workers=num_workers, tolerance=ToleranceConfig(heartbeat_timeout_s=8.0))
    group = WorkerGroup(config, FakeRecipe(), "none", Cluster(started=True, disconnect=lambda: None), clock)
    for worker in group.workers:
        group.create(worker)
    return group


def started(clock: Clock, num_workers: int = 2) -> WorkerGroup:
    """A group whose workers have answered and are ready."""
    group = make_group(clock, num_workers)
    for _ in range(2 * num_workers):
        for call in group.wait(1.0):
            group.complete(call)
    for worker in group.workers:
        worker.enter("ready", clock.now)
    return group


def submit(fake: FakeRay, group: WorkerGroup, worker: int, shard: int, *, split_grad: bool = False) -> None:
    snapshot = fake.put(encode_snapshot(Snapshot(0, make_params()), 1, Work("update")))
    assignment = Assignment(worker, SHARDS[shard], None)
    group.submit(group.workers[worker], assignment, (1, shard), snapshot, split_grad=split_grad)


def test_a_created_worker_answers_where_it_is_and_when_it_is_ready(fake: FakeRay) -> None:
    group = make_group(Clock(), num_workers=1)
    answers = [(call.kind, group.fetch(call.ref)) for _ in range(2) for call in group.wait(1.0)]
    assert [kind for kind, _ in answers] == ["locate", "start"]
    assert {location.node_id for _, location in answers} == {"node-0"}
    assert group.wait(NEVER) == []


def test_answers_are_taken_together_and_name_the_running_shard(fake: FakeRay) -> None:
    clock = Clock()
    group = started(clock, num_workers=1)
    worker = group.workers[0]
    for shard in range(3):
        submit(fake, group, 0, shard)
    assert worker.queue == [(1, 0), (1, 1), (1, 2)]
    clock.now = 5.0
    [call] = group.wait(1.0)
    assert (call.kind, call.key, call.is_current) == ("shard", (1, 0), True)
    assert group.complete(call) == (1, 0)
    assert group.fetch(call.ref).shard == 0
    assert (worker.queue, worker.ranks[0].last_heard, worker.running_since) == ([(1, 1), (1, 2)], 5.0, 5.0)


def test_many_answers_are_taken_at_once(fake: FakeRay) -> None:
    group = started(Clock(), num_workers=1)
    for shard in range(4):
        submit(fake, group, 0, shard)
    for _ in range(6):  # enough calls for a second look at all of them
        group.submit_sum(group.workers[0], (1, 0), [], [])
    while fake.queue:
        fake.run(fake.queue.popleft())
    assert len(group.wait(1.0)) == 10


def test_a_split_gradient_is_an_object_of_its_own(fake: FakeRay) -> None:
    group = started(Clock(), num_workers=1)
    submit(fake, group, 0, 0, split_grad=True)
    [call] = group.wait(1.0)
    assert group.fetch(call.ref).value.grad is None
    assert group.fetch(call.grad).num_bytes > 0


def test_a_cancelled_shard_is_skipped(fake: FakeRay) -> None:
    group = started(Clock(), num_workers=1)
    submit(fake, group, 0, 0)
    group.cancel(group.workers[0], (1, 0))
    [call] = group.wait(1.0)
    assert group.fetch(call.ref) is None


def test_answers_of_a_stopped_worker_are_not_expected(fake: FakeRay) -> None:
    group = started(Clock())
    submit(fake, group, 0, 0)
    submit(fake, group, 1, 1)
    while fake.queue:
        fake.run(fake.queue.popleft())
    calls = [call for call in group.calls.values() if call.worker.index == 0]
    group.stop(group.workers[0])
    assert [call.worker.index for call in group.wait(1.0)] == [1]
    assert not calls[0].is_current
    assert (group.workers[0].actor, group.workers[0].queue) == (None, [])
    assert [actor.alive for actor in fake.actors] == [False, True]


def test_only_a_forced_stop_kills_the_process(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Location] = []
    monkeypatch.setattr(worker_group_module, "kill_process", killed.append)
    group = started(Clock())
    for worker in group.workers:
        worker.ranks[0].location = Location("node-0", "127.0.0.1", 100 + worker.index)
    group.stop(group.workers[0])
    group.stop(group.workers[1], force=True)
    assert [location.pid for location in killed] == [101]


def test_a_worker_is_created_again_when_its_backoff_is_over(fake: FakeRay) -> None:
    clock = Clock()
    group = started(clock)
    first, second = group.workers
    for worker, after_s in ((first, 0.0), (second, 4.0)):
        group.stop(worker)
        group.restart(worker, after_s)
    assert (first.state, second.state, len(fake.actors)) == ("pending", "backoff", 3)
    clock.now = 3.9
    group.start_due()
    assert second.state == "backoff"
    clock.now = 4.0
    group.start_due()
    assert (second.state, second.actor, len(fake.actors)) == ("pending", fake.actors[3], 4)


def test_a_heartbeat_is_requested_only_of_workers_that_were_not_heard(fake: FakeRay) -> None:
    clock = Clock()
    group = started(clock)
    fake.calls.clear()
    clock.now = 2.0
    group.workers[1].ranks[0].last_heard = 1.0
    group.send_heartbeats()
    assert fake.calls == [(0, "heartbeat")]
    assert [call.kind for call in group.wait(1.0)] == ["heartbeat"]


def test_an_answer_that_the_driver_has_not_taken_is_a_sign_of_life(fake: FakeRay) -> None:
    clock = Clock()
    group = started(clock, num_workers=1)
    worker = group.workers[0]
    submit(fake, group, 0, 0)
    worker.ranks[0].pinged(2.0)
    clock.now = 30.0
    assert group.silent_rank(worker) is worker.ranks[0]
    assert group.is_overdue(worker, 10.0)
    fake.run(fake.queue.popleft())
    assert group.silent_rank(worker) is None
    assert not group.is_overdue(worker, 10.0)


def test_closing_stops_all(fake: FakeRay) -> None:
    group = started(Clock())
    group.close()
    assert [actor.alive for actor in fake.actors] == [False, False]
    assert group.wait(NEVER) == []
