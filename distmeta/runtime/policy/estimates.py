"""When workers are expected to finish their shards, by their throughput. Times are seconds of any monotonic clock."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distmeta.core.types import Shard
from distmeta.runtime.policy.throughput import Throughput

ShardKey = tuple[int, int]
"""Number of the executor's call (`Schedule.call_id`) and index of the shard."""

LATE_FACTOR, LATE_MARGIN_S = 1.5, 0.1
"""A shard is late after this many times, and this long beyond, its expected duration."""


@dataclass
class Attempt:
    """A shard in a worker's queue.

    Attributes:
        key: Call and shard.
        shard: The shard.
        throughput: Where its duration is recorded.
        since: When the worker began to compute it: when it was assigned, or became the first of the queue.
    """

    key: ShardKey
    shard: Shard
    throughput: Throughput
    since: float


def duration_s(throughput: Throughput, worker: int, shard: Shard) -> float:
    """Expected seconds that a worker needs for a shard; 0 if nothing is known."""
    return (throughput.seconds_per_task(worker) or 0.0) * max(1, len(shard.specs))


def late_at(throughput: Throughput, worker: int, attempt: Attempt, patience: float = 1.0) -> float:
    """When the first attempt of a worker's queue becomes late; `patience` is a factor of the time until then."""
    duration = duration_s(throughput, worker, attempt.shard)
    return attempt.since + patience * max(LATE_FACTOR * duration, duration + LATE_MARGIN_S)


def expected_ends(
    throughput: Throughput, worker: int, queue: Sequence[Attempt], now: float, patience: float = 1.0
) -> list[float]:
    """When each attempt of a worker's queue should end. One that is late is expected to take as long again."""
    ends: list[float] = []
    for attempt in queue:
        start = ends[-1] if ends else attempt.since
        end = start + duration_s(throughput, worker, attempt.shard)
        if not ends and now >= late_at(throughput, worker, attempt, patience):
            end = now + (now - attempt.since)
        ends.append(max(end, now))
    return ends


def would_finish_last(
    throughput: Throughput,
    worker: int,
    shard: Shard,
    num_pending: int,
    others: Mapping[int, Sequence[Attempt]],
    now: float,
) -> bool:
    """Whether a worker would need longer for a shard than the others need for all that is pending.

    Args:
        throughput: Of all workers.
        worker: An idle worker.
        shard: The shard that it would get.
        num_pending: Pending shards, this one included; the others are taken to be of its size.
        others: Queues of the other workers.
        now: The time.
    """
    free_at = [((expected_ends(throughput, other, queue, now) or [now])[-1], other) for other, queue in others.items()]
    heap = [(start + duration_s(throughput, other, shard), other) for start, other in free_at]
    heapq.heapify(heap)
    last_end = now
    for _ in range(num_pending):
        last_end, other = heap[0]
        heapq.heapreplace(heap, (last_end + duration_s(throughput, other, shard), other))
    return now + duration_s(throughput, worker, shard) > last_end
