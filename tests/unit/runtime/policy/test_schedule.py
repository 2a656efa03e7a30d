"""Assignments worked out by hand, and simulated workers for what only shows over time."""

from __future__ import annotations

import heapq
import math

import pytest

from distmeta.core.types import Shard, TaskSpec, Work
from distmeta.runtime.policy.schedule import FORGET_AFTER_CALLS, Assignment, Schedule
from distmeta.server.tree import FAN_IN

SHARDS = [Shard(index, (TaskSpec(index, index, "train"),)) for index in range(6)]


def make_schedule(num_workers: int, **options: object) -> Schedule:
    schedule = Schedule(**options)  # type: ignore[arg-type]
    for worker in range(num_workers):
        schedule.add_worker(worker)
    return schedule


def pairs(assignments: list[Assignment]) -> list[tuple[int, int]]:
    return [(assignment.worker, assignment.shard.index) for assignment in assignments]


def simulate(schedule: Schedule, seconds: list[float], shards: list[Shard], start: float = 0.0) -> float:
    """Run one call with workers that need `seconds` a shard; returns when the last shard was reported."""
    schedule.start(Work("update"), shards)
    now, missing = start, {shard.index for shard in shards}
    events: list[tuple[float, int]] = []
    queues: dict[int, list[int]] = {worker: [] for worker in schedule.workers}
    while missing:
        for assignment in schedule.assign(now):
            worker = assignment.worker
            queues[worker].append(assignment.shard.index)
            if len(queues[worker]) == 1:
                heapq.heappush(events, (now + seconds[worker], worker))
        check_at = schedule.next_check_at(now)
        if check_at < (events[0][0] if events else math.inf):
            now = check_at
            continue
        now, worker = heapq.heappop(events)
        index = queues[worker].pop(0)
        first, _ = schedule.finished(worker, (schedule.call_id, index), now)
        assert first == (index in missing)
        missing.discard(index)
        if queues[worker]:
            heapq.heappush(events, (now + seconds[worker], worker))
    for worker in schedule.workers:  # copies that still run: a real worker skips them, or answers later
        while schedule._queues[worker]:
            schedule.finished(worker, schedule._queues[worker][0].key, now, computed=False)
    return now - start


def test_workers_get_their_own_shards_and_queue_one_more() -> None:
    schedule = make_schedule(2)
    schedule.start(Work("update"), SHARDS)
    assert pairs(schedule.assign(0.0)) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert schedule.assign(0.0) == []
    assert schedule.finished(0, (1, 0), 1.0) == (True, [])
    assert pairs(schedule.assign(1.0)) == [(0, 4)]


def test_an_idle_worker_takes_the_last_shard_of_another() -> None:
    schedule = make_schedule(2, queue_depth=1)
    schedule.start(Work("update"), SHARDS[:1] + SHARDS[2:3] + SHARDS[4:5])
    assert pairs(schedule.assign(0.0)) == [(0, 0), (1, 4)]


def test_the_upcoming_shard_is_the_workers_own_in_this_call_or_the_next() -> None:
    schedule = make_schedule(2, queue_depth=1)
    upcoming = [Shard(index, ()) for index in range(4)]
    schedule.start(Work("update"), SHARDS[:3], upcoming)
    upcoming_of = {each.worker: each.upcoming for each in schedule.assign(0.0)}
    assert upcoming_of == {0: SHARDS[2], 1: upcoming[1]}


def test_shards_of_a_removed_worker_are_assigned_first() -> None:
    schedule = make_schedule(2, speculate=False)
    schedule.start(Work("update"), SHARDS)
    schedule.assign(0.0)
    assert schedule.remove_worker(0) == 2
    schedule.finished(1, (1, 1), 1.0)
    schedule.finished(1, (1, 3), 2.0)
    assert pairs(schedule.assign(2.0)) == [(1, 0), (1, 2)]
    schedule.add_worker(7)
    assert pairs(schedule.assign(2.0)) == [(7, 5)]


def test_a_failed_shard_goes_to_another_worker_at_once_but_back_if_there_is_none() -> None:
    schedule = make_schedule(2, queue_depth=1)
    schedule.start(Work("update"), SHARDS[:2])
    schedule.assign(0.0)
    assert schedule.failed(0, (1, 0), 1.0, exclude=0)
    assert schedule.assign(1.0) == []
    schedule.finished(1, (1, 1), 1.0)
    assert pairs(schedule.assign(1.0)) == [(1, 0)]
    schedule.failed(1, (1, 0), 1.0, exclude=1)
    assert pairs(schedule.assign(1.0)) == [(0, 0)]


def test_a_shard_that_is_requeued_goes_to_another_worker() -> None:
    schedule = make_schedule(2)
    schedule.start(Work("update"), SHARDS[:1])
    schedule.assign(0.0)
    schedule.finished(0, (1, 0), 1.0)
    schedule.requeue(SHARDS[0], exclude=0)
    assert pairs(schedule.assign(1.0)) == [(1, 0)]


def test_answers_of_an_earlier_call_do_not_count() -> None:
    schedule = make_schedule(1)
    schedule.start(Work("update"), SHARDS[:2])
    schedule.assign(0.0)
    schedule.start(Work("update"), SHARDS[:1])
    assert schedule.finished(0, (1, 0), 1.0) == (False, [])
    assert schedule.finished(0, (1, 1), 1.0, computed=False) == (False, [])
    assert pairs(schedule.assign(1.0)) == [(0, 0)]


def measured(seconds: list[float], **options: object) -> Schedule:
    """A schedule that has measured workers which need `seconds` a shard."""
    schedule = make_schedule(len(seconds), **options)
    for worker, duration in enumerate(seconds):
        for _ in range(3):
            schedule.start(Work("update"), [SHARDS[worker]])
            schedule._assign_to(worker, SHARDS[worker], 0.0)
            schedule.finished(worker, (schedule.call_id, worker), duration)
    return schedule


def test_a_late_shard_is_copied_to_an_idle_worker_and_the_first_report_counts() -> None:
    schedule = measured([1.0, 1.0])
    schedule.start(Work("update"), SHARDS[:2])
    schedule.assign(10.0)
    schedule.finished(1, (schedule.call_id, 1), 11.0)
    assert schedule.assign(11.0) == []
    assert schedule.next_check_at(11.0) == pytest.approx(11.5)
    assert pairs(schedule.assign(11.5)) == [(1, 0)]
    assert schedule.assign(11.6) == []
    assert schedule.finished(1, (schedule.call_id, 0), 12.5) == (True, [0])
    assert schedule.finished(0, (schedule.call_id, 0), 13.0) == (False, [])
    assert schedule.copies == 1


def test_no_copies_are_made_if_disabled_or_if_no_throughput_is_known() -> None:
    for schedule in (measured([1.0, 1.0], speculate=False), make_schedule(2)):
        schedule.start(Work("update"), SHARDS[:2])
        schedule.assign(0.0)
        schedule.finished(1, (schedule.call_id, 1), 1.0)
        assert schedule.assign(100.0) == []
        assert schedule.next_check_at(0.0) == math.inf


def test_a_shard_with_another_copy_is_not_requeued_when_its_worker_dies() -> None:
    schedule = measured([1.0, 1.0])
    schedule.start(Work("update"), SHARDS[:2])
    schedule.assign(0.0)
    schedule.finished(1, (schedule.call_id, 1), 1.0)
    assert pairs(schedule.assign(2.0)) == [(1, 0)]
    assert schedule.remove_worker(0) == 0
    assert schedule.finished(1, (schedule.call_id, 0), 3.0) == (True, [])


def test_a_slow_worker_gets_only_shards_that_it_finishes_in_time() -> None:
    schedule = measured([1.0, 1.0, 1.0, 8.0])
    few, many = SHARDS[:6], [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(60)]
    schedule.start(Work("update"), few)
    assert 3 not in {each.worker for each in schedule.assign(0.0)}
    schedule = measured([1.0, 1.0, 1.0, 8.0])
    schedule.start(Work("update"), many)
    assert [each.shard.index for each in schedule.assign(0.0) if each.worker == 3] == [3]


def test_a_slow_worker_gets_a_shard_that_no_other_may_compute() -> None:
    schedule = measured([1.0, 8.0])
    schedule.start(Work("update"), SHARDS[:1])
    assert pairs(schedule.assign(100.0)) == [(0, 0)]
    schedule.finished(0, (schedule.call_id, 0), 101.0)
    schedule.requeue(SHARDS[0], exclude=0)
    assert pairs(schedule.assign(101.0)) == [(1, 0)]


def test_one_of_four_workers_eight_times_slower_costs_at_most_half_a_step() -> None:
    shards = [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(16)]
    even, uneven = make_schedule(4), make_schedule(4)
    baseline = [simulate(even, [1.0] * 4, shards, 1000.0 * call) for call in range(5)]
    slowed = [simulate(uneven, [1.0, 1.0, 1.0, 8.0], shards, 1000.0 * call) for call in range(60)]
    assert baseline == [4.0] * 5
    assert max(slowed[2:]) <= 6.0
    assert sorted(slowed)[30] <= 6.0


def test_a_worker_that_has_recovered_gets_shards_again() -> None:
    shards = [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(16)]
    schedule = make_schedule(4)
    for call in range(3):
        simulate(schedule, [1.0, 1.0, 1.0, 8.0], shards, 1000.0 * call)
    times = [simulate(schedule, [1.0] * 4, shards, 1000.0 * (10 + call)) for call in range(FORGET_AFTER_CALLS + 10)]
    assert times[-1] == 4.0


def test_a_draining_worker_finishes_its_shard_and_gets_no_more() -> None:
    schedule = make_schedule(2, speculate=False)
    schedule.start(Work("update"), SHARDS)
    schedule.assign(0.0)
    assert schedule.drain_worker(0) == [(1, 2)]
    assert schedule.workers == (1,)
    assert schedule.finished(0, (1, 0), 1.0) == (True, [])
    assert not schedule.is_busy(0)
    schedule.finished(1, (1, 1), 1.0)
    assert pairs(schedule.assign(1.0)) == [(1, 2)]
    assert schedule.remove_worker(0) == 0


def test_shards_of_a_group_go_to_one_node_if_every_node_has_a_group() -> None:
    shards = [Shard(index, ()) for index in range(4 * FAN_IN)]
    schedule = Schedule(queue_depth=len(shards))
    for worker, node in enumerate("abab"):
        schedule.add_worker(worker, node)
    schedule.start(Work("update"), shards)
    nodes = {each.shard.index: "abab"[each.worker] for each in schedule.assign(0.0)}
    assert all(node == "ab"[index // FAN_IN % 2] for index, node in nodes.items())
    schedule.start(Work("update"), shards[:4])
    for worker in schedule.workers:
        schedule.remove_worker(worker)
        schedule.add_worker(worker, "abab"[worker])
    assert pairs(schedule.assign(0.0)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_shards_of_a_stream_are_assigned_as_they_are_added() -> None:
    schedule = make_schedule(2, queue_depth=1, speculate=False)
    schedule.start(Work("update"), [])
    assert schedule.idle == [0, 1]
    schedule.add_shard(SHARDS[0])
    schedule.add_shard(SHARDS[1])
    assert pairs(schedule.assign(0.0)) == [(0, 0), (1, 1)]
    assert schedule.finished(1, (1, 1), 1.0) == (True, [])
    schedule.add_shard(SHARDS[2])
    assert pairs(schedule.assign(1.0)) == [(1, 2)]
