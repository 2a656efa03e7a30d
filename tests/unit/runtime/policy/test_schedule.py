"""Who gets which shard, worked out by hand, and a simulated crew for what only shows over time."""

from __future__ import annotations

import heapq
import math

import pytest

from distmeta.core.types import Shard, TaskSpec, Work
from distmeta.runtime.policy.schedule import FORGET_AFTER, Order, Schedule
from distmeta.server.tree import FAN_IN

SHARDS = [Shard(index, (TaskSpec(index, index, "train"),)) for index in range(6)]


def crew(workers: int, **options: object) -> Schedule:
    schedule = Schedule(**options)  # type: ignore[arg-type]
    for worker in range(workers):
        schedule.join(worker)
    return schedule


def given(orders: list[Order]) -> list[tuple[int, int]]:
    return [(order.worker, order.shard.index) for order in orders]


def simulate(schedule: Schedule, seconds: list[float], shards: list[Shard], start: float = 0.0) -> float:
    """Run one call with workers that need `seconds` a shard; returns when the last shard was reported."""
    schedule.begin(Work("update"), shards)
    now, missing = start, {shard.index for shard in shards}
    events: list[tuple[float, int]] = []
    calls: dict[int, list[int]] = {worker: [] for worker in schedule.workers}
    while missing:
        for order in schedule.hand_out(now):
            calls[order.worker].append(order.shard.index)
            if len(calls[order.worker]) == 1:
                heapq.heappush(events, (now + seconds[order.worker], order.worker))
        wake = schedule.wake(now)
        if wake < (events[0][0] if events else math.inf):
            now = wake
            continue
        now, worker = heapq.heappop(events)
        index = calls[worker].pop(0)
        first, _ = schedule.finished(worker, (schedule.epoch, index), now)
        assert first == (index in missing)
        missing.discard(index)
        if calls[worker]:
            heapq.heappush(events, (now + seconds[worker], worker))
    for worker in schedule.workers:  # workers drop what they still hold: a real one is told, or answers later
        while schedule._calls[worker]:
            schedule.finished(worker, schedule._calls[worker][0].key, now, computed=False)
    return now - start


def test_workers_get_their_own_shards_with_one_ahead() -> None:
    schedule = crew(2)
    schedule.begin(Work("update"), SHARDS)
    assert given(schedule.hand_out(0.0)) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    assert schedule.hand_out(0.0) == []
    assert schedule.finished(0, (1, 0), 1.0) == (True, [])
    assert given(schedule.hand_out(1.0)) == [(0, 4)]


def test_an_idle_worker_takes_the_last_shard_of_another() -> None:
    schedule = crew(2, ahead=1)
    schedule.begin(Work("update"), SHARDS[:1] + SHARDS[2:3] + SHARDS[4:5])
    assert given(schedule.hand_out(0.0)) == [(0, 0), (1, 4)]


def test_the_following_shard_is_the_workers_own_now_or_in_the_next_call() -> None:
    schedule = crew(2, ahead=1)
    upcoming = [Shard(index, ()) for index in range(4)]
    schedule.begin(Work("update"), SHARDS[:3], upcoming)
    following = {order.worker: order.following for order in schedule.hand_out(0.0)}
    assert following == {0: SHARDS[2], 1: upcoming[1]}


def test_shards_of_a_worker_that_leaves_go_to_the_others_first() -> None:
    schedule = crew(2, speculate=False)
    schedule.begin(Work("update"), SHARDS)
    schedule.hand_out(0.0)
    assert schedule.leave(0) == 2
    schedule.finished(1, (1, 1), 1.0)
    schedule.finished(1, (1, 3), 2.0)
    assert given(schedule.hand_out(2.0)) == [(1, 0), (1, 2)]
    schedule.join(7)
    assert given(schedule.hand_out(2.0)) == [(7, 5)]


def test_a_failed_shard_goes_to_another_worker_at_once_but_back_if_there_is_none() -> None:
    schedule = crew(2, ahead=1)
    schedule.begin(Work("update"), SHARDS[:2])
    schedule.hand_out(0.0)
    assert schedule.failed(0, (1, 0), 1.0, exclude=0)
    assert schedule.hand_out(1.0) == []
    schedule.finished(1, (1, 1), 1.0)
    assert given(schedule.hand_out(1.0)) == [(1, 0)]
    schedule.failed(1, (1, 0), 1.0, exclude=1)
    assert given(schedule.hand_out(1.0)) == [(0, 0)]


def test_a_report_that_is_refused_is_made_again_elsewhere() -> None:
    schedule = crew(2)
    schedule.begin(Work("update"), SHARDS[:1])
    schedule.hand_out(0.0)
    schedule.finished(0, (1, 0), 1.0)
    schedule.again(SHARDS[0], exclude=0)
    assert given(schedule.hand_out(1.0)) == [(1, 0)]


def test_answers_of_an_earlier_call_are_no_reports() -> None:
    schedule = crew(1)
    schedule.begin(Work("update"), SHARDS[:2])
    schedule.hand_out(0.0)
    schedule.begin(Work("update"), SHARDS[:1])
    assert schedule.finished(0, (1, 0), 1.0) == (False, [])
    assert schedule.finished(0, (1, 1), 1.0, computed=False) == (False, [])
    assert given(schedule.hand_out(1.0)) == [(0, 0)]


def paced(seconds: list[float], **options: object) -> Schedule:
    """A crew that has shown its paces, alone: each worker a few shards."""
    schedule = crew(len(seconds), **options)
    for worker, needs in enumerate(seconds):
        for _ in range(3):
            schedule.begin(Work("update"), [SHARDS[worker]])
            schedule._give(worker, SHARDS[worker], 0.0)
            schedule.finished(worker, (schedule.epoch, worker), needs)
    return schedule


def test_a_late_shard_is_given_to_an_idle_worker_and_the_first_report_serves() -> None:
    schedule = paced([1.0, 1.0])
    schedule.begin(Work("update"), SHARDS[:2])
    schedule.hand_out(10.0)
    schedule.finished(1, (schedule.epoch, 1), 11.0)
    assert schedule.hand_out(11.0) == []
    assert schedule.wake(11.0) == pytest.approx(11.5)
    assert given(schedule.hand_out(11.5)) == [(1, 0)]
    assert schedule.hand_out(11.6) == []
    assert schedule.finished(1, (schedule.epoch, 0), 12.5) == (True, [0])
    assert schedule.finished(0, (schedule.epoch, 0), 13.0) == (False, [])
    assert schedule.copies == 1


def test_no_copies_where_they_are_switched_off_or_nothing_is_known() -> None:
    for schedule in (paced([1.0, 1.0], speculate=False), crew(2)):
        schedule.begin(Work("update"), SHARDS[:2])
        schedule.hand_out(0.0)
        schedule.finished(1, (schedule.epoch, 1), 1.0)
        assert schedule.hand_out(100.0) == []
        assert schedule.wake(0.0) == math.inf


def test_a_worker_that_dies_with_a_copy_leaves_the_shard_to_the_other() -> None:
    schedule = paced([1.0, 1.0])
    schedule.begin(Work("update"), SHARDS[:2])
    schedule.hand_out(0.0)
    schedule.finished(1, (schedule.epoch, 1), 1.0)
    assert given(schedule.hand_out(2.0)) == [(1, 0)]
    assert schedule.leave(0) == 0
    assert schedule.finished(1, (schedule.epoch, 0), 3.0) == (True, [])


def test_a_slow_worker_gets_only_what_it_finishes_in_time() -> None:
    schedule = paced([1.0, 1.0, 1.0, 8.0])
    few, many = SHARDS[:6], [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(60)]
    schedule.begin(Work("update"), few)
    assert 3 not in {order.worker for order in schedule.hand_out(0.0)}
    schedule = paced([1.0, 1.0, 1.0, 8.0])
    schedule.begin(Work("update"), many)
    assert [order.shard.index for order in schedule.hand_out(0.0) if order.worker == 3] == [3]


def test_one_of_four_workers_eight_times_slower_costs_at_most_half_a_step() -> None:
    shards = [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(16)]
    even, uneven = crew(4), crew(4)
    undisturbed = [simulate(even, [1.0] * 4, shards, 1000.0 * call) for call in range(5)]
    slowed = [simulate(uneven, [1.0, 1.0, 1.0, 8.0], shards, 1000.0 * call) for call in range(60)]
    assert undisturbed == [4.0] * 5
    assert max(slowed[2:]) <= 6.0
    assert sorted(slowed)[30] <= 6.0


def test_a_worker_that_has_recovered_gets_work_again() -> None:
    shards = [Shard(index, (TaskSpec(index, 0, "train"),)) for index in range(16)]
    schedule = crew(4)
    for call in range(3):
        simulate(schedule, [1.0, 1.0, 1.0, 8.0], shards, 1000.0 * call)
    times = [simulate(schedule, [1.0] * 4, shards, 1000.0 * (10 + call)) for call in range(FORGET_AFTER + 10)]
    assert times[-1] == 4.0


def test_a_worker_that_retires_finishes_its_shard_and_gets_no_more() -> None:
    schedule = crew(2, speculate=False)
    schedule.begin(Work("update"), SHARDS)
    schedule.hand_out(0.0)
    assert schedule.retire(0) == [(1, 2)]
    assert schedule.workers == (1,)
    assert schedule.finished(0, (1, 0), 1.0) == (True, [])
    assert not schedule.busy(0)
    schedule.finished(1, (1, 1), 1.0)
    assert given(schedule.hand_out(1.0)) == [(1, 2)]
    assert schedule.leave(0) == 0


def test_shards_of_a_group_go_to_one_node_where_there_are_groups_enough() -> None:
    shards = [Shard(index, ()) for index in range(4 * FAN_IN)]
    schedule = Schedule(ahead=len(shards))
    for worker, node in enumerate("abab"):
        schedule.join(worker, node)
    schedule.begin(Work("update"), shards)
    homes = {order.shard.index: "abab"[order.worker] for order in schedule.hand_out(0.0)}
    assert all(homes[index] == "ab"[index // FAN_IN % 2] for index in homes)
    schedule.begin(Work("update"), shards[:4])
    for worker in schedule.workers:
        schedule.leave(worker)
        schedule.join(worker, "abab"[worker])
    assert given(schedule.hand_out(0.0)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_a_stream_takes_one_shard_after_the_other() -> None:
    schedule = crew(2, ahead=1, speculate=False)
    schedule.begin(Work("update"), [])
    assert schedule.idle == [0, 1]
    schedule.add(SHARDS[0])
    schedule.add(SHARDS[1])
    assert given(schedule.hand_out(0.0)) == [(0, 0), (1, 1)]
    assert schedule.finished(1, (1, 1), 1.0) == (True, [])
    schedule.add(SHARDS[2])
    assert given(schedule.hand_out(1.0)) == [(1, 2)]
