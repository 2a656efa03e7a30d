"""Second copies of late shards, on idle workers (backup tasks: Dean & Ghemawat 2004, "MapReduce", section 3.6).

A shard is a pure function of its snapshot, so both reports have the same bits and the first one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from distmeta.core.types import Shard
from distmeta.runtime.policy.estimates import LATE_MARGIN_S, Attempt, duration_s, expected_ends, late_at
from distmeta.runtime.policy.throughput import Throughput

MIN_GAIN = 1.2
"""A copy must be expected to end this many of its own durations before the attempt that it copies."""


def copies_of_late(
    throughput: Throughput,
    queues: Mapping[int, Sequence[Attempt]],
    idle: Collection[int],
    may_copy: Callable[[Attempt], bool],
    is_allowed: Callable[[int, int], bool],
    now: float,
    patience: float = 1.0,
) -> tuple[list[tuple[int, Shard]], float]:
    """Which idle workers compute which running shards as well: those that end last, the fastest first.

    Args:
        throughput: Of all workers; the typical one is known.
        queues: Attempts of each worker.
        idle: Workers without any; at least one.
        may_copy: Whether an attempt's shard may have a copy.
        is_allowed: Whether a worker may get the shard of an index.
        now: The time.
        patience: How many times as long as usual to wait before an attempt counts as late. With more than one, only
            attempts that are late are copied; else those, too, that a slow worker has just begun.

    Returns:
        Pairs of worker and shard; the time before which there is nothing to copy.
    """
    free = sorted(idle, key=lambda worker: (throughput.seconds_per_task(worker) or 0.0, worker))
    limits = [late_at(throughput, worker, queue[0], patience) for worker, queue in queues.items() if queue]
    next_late_at = min((limit for limit in limits if limit > now), default=math.inf)
    running = [
        (end, -attempt.shard.index, attempt.shard)
        for worker, queue in queues.items()
        for attempt, end in zip(queue, expected_ends(throughput, worker, queue, now, patience), strict=True)
        if may_copy(attempt) and (patience <= 1.0 or now >= late_at(throughput, worker, attempt, patience))
    ]
    copies: list[tuple[int, Shard]] = []
    for end, _, shard in sorted(running, key=lambda entry: entry[:2], reverse=True):
        worker = next((worker for worker in free if is_allowed(worker, shard.index)), None)
        if worker is None:
            break
        gains_until = now + MIN_GAIN * duration_s(throughput, worker, shard)
        if gains_until >= end:
            # Not yet; a copy of an attempt that is late already may gain time when it is later still.
            next_late_at = min(next_late_at, now + max(LATE_MARGIN_S, gains_until - end))
            break
        free.remove(worker)
        copies.append((worker, shard))
    return copies, next_late_at
