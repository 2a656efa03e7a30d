"""When workers are expected to finish, worked out by hand."""

from __future__ import annotations

import pytest

from distmeta.core.types import Shard, TaskSpec
from distmeta.runtime.policy.estimates import (
    LATE_MARGIN_S,
    Attempt,
    duration_s,
    expected_ends,
    late_at,
    would_finish_last,
)
from distmeta.runtime.policy.throughput import Throughput


def make_shard(num_tasks: int) -> Shard:
    return Shard(0, tuple(TaskSpec(index, 0, "train") for index in range(num_tasks)))


def make_throughput(*seconds_per_task: float) -> Throughput:
    throughput = Throughput()
    for worker, seconds in enumerate(seconds_per_task):
        for _ in range(3):
            throughput.record(worker, seconds)
    return throughput


def make_attempt(throughput: Throughput, num_tasks: int, since: float) -> Attempt:
    return Attempt((1, 0), make_shard(num_tasks), throughput, since)


def test_a_shard_takes_seconds_per_task_times_its_tasks() -> None:
    throughput = make_throughput(0.5)
    assert duration_s(throughput, 0, make_shard(4)) == 2.0
    assert duration_s(throughput, 0, make_shard(0)) == 0.5
    assert duration_s(Throughput(), 0, make_shard(4)) == 0.0


def test_short_shards_are_late_by_a_margin_and_long_ones_by_a_factor() -> None:
    throughput = make_throughput(0.01)
    assert late_at(throughput, 0, make_attempt(throughput, 1, 5.0)) == pytest.approx(5.01 + LATE_MARGIN_S)
    assert late_at(throughput, 0, make_attempt(throughput, 100, 5.0)) == pytest.approx(6.5)


def test_queued_shards_end_one_after_the_other() -> None:
    throughput = make_throughput(1.0)
    queue = [make_attempt(throughput, 2, 10.0), make_attempt(throughput, 3, 10.0)]
    assert expected_ends(throughput, 0, queue, 11.0) == [12.0, 15.0]
    assert expected_ends(throughput, 0, queue, 12.5) == [12.5, 15.5]
    assert expected_ends(throughput, 0, [], 11.0) == []


def test_a_late_shard_is_expected_to_take_as_long_again() -> None:
    throughput = make_throughput(1.0)
    assert expected_ends(throughput, 0, [make_attempt(throughput, 2, 10.0)], 14.0) == [18.0]


@pytest.mark.parametrize(("num_pending", "expected"), [(1, True), (6, True), (7, False), (8, False)])
def test_a_slow_worker_would_finish_last_unless_the_others_need_longer_for_all(
    num_pending: int, expected: bool
) -> None:
    # It needs 4 s for a shard, the two others 1 s: they need 3 s for six shards and 4 s for seven.
    throughput = make_throughput(1.0, 1.0, 4.0)
    assert would_finish_last(throughput, 2, make_shard(1), num_pending, {0: [], 1: []}, 10.0) is expected


def test_work_in_the_queues_of_others_counts() -> None:
    throughput = make_throughput(1.0, 4.0)
    busy = {0: [make_attempt(throughput, 3, 10.0)]}
    assert not would_finish_last(throughput, 1, make_shard(1), 1, busy, 10.0)
    assert would_finish_last(throughput, 1, make_shard(1), 1, {0: []}, 10.0)
