"""Which worker computes which shard: a state machine without clock or processes, tested as arithmetic.

    start(shards); assign(now) -> assignments     idle workers take their own shards first (index modulo workers),
    finished(...), failed(...)                    then those of others, the last ones first; each has one more queued
    add_worker(worker), remove_worker(worker)     the shards of a removed worker are assigned first

Each worker's throughput is measured. A worker that is much slower than the others gets a shard only if it would finish
it before the others have finished all the rest. When nothing is pending, a late shard is assigned to an idle worker as
well, and the first report counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from distmeta.core.types import Shard, Work
from distmeta.runtime.policy.copies import copies_of_late
from distmeta.runtime.policy.estimates import (
    LATE_MARGIN_S,
    Attempt,
    ShardKey,
    duration_s,
    would_finish_last,
)
from distmeta.runtime.policy.pending import Pending, owners_by_node, owners_by_weight
from distmeta.runtime.policy.throughput import Throughput

MIN_DELAY_S = 0.005
"""A worker that needs so little more than others for a shard delays no call: a message may take as long."""
MAX_COPIES = 2
LEAD_PATIENCE = 2.0
"""A leader has its late shards copied itself, and a copy of a whole unit keeps its workers from the next step."""
FORGET_AFTER_CALLS = 50
"""Calls without a shard after which a worker counts as a typical one, so that a slow one gets another chance."""


@dataclass(frozen=True)
class Assignment:
    """`worker` computes `shard`; `upcoming` is the shard that it will probably get next."""

    worker: int
    shard: Shard
    upcoming: Shard | None


@dataclass
class _Call:
    """The shards of one call of an executor.

    Attributes:
        throughput: Of this kind of work.
        pending: Shards that no worker computes.
        num_running: Number of running copies of each of the others.
        refused: When a slow worker that would delay the call may be considered again.
    """

    throughput: Throughput
    pending: Pending = field(default_factory=Pending)
    num_running: dict[int, int] = field(default_factory=dict)
    refused: dict[int, float] = field(default_factory=dict)


class Schedule:
    """Assigns shards to workers. Times are seconds of any monotonic clock.

    Args:
        queue_depth: Shards that a worker may have at a time: the one that it computes and those queued behind it.
        speculate: Assign late shards to idle workers as well.
        leads: Workers are slots of leaders: slow ones have units queued ahead too, or some of their workers would wait.

    Attributes:
        call_id: Number of the present call.
        copies: Number of shards that were assigned to a second worker.
    """

    def __init__(self, *, queue_depth: int = 2, speculate: bool = True, leads: bool = False) -> None:
        self.call_id = 0
        self.copies = 0
        self._queue_depth, self._makes_copies, self._leads = queue_depth, speculate, leads
        self._queues: dict[int, deque[Attempt]] = {}
        self._workers: tuple[int, ...] = ()
        self._draining: set[int] = set()
        self._idle: set[int] = set()
        self._may_queue: set[int] = set()
        """Workers that may have room for a shard of their own behind the one that they compute."""
        self._nodes: dict[int, str] = {}
        self._weights: dict[int, float] = {}
        self._next_late_at = -math.inf
        """No attempt becomes late before."""
        self._throughput: dict[Work, Throughput] = {}
        self._last_finished: dict[int, int] = {}
        """Call in which each worker last finished a shard."""
        self._call = _Call(Throughput())

    @property
    def workers(self) -> tuple[int, ...]:
        """Workers that are assigned shards, in order."""
        return self._workers

    @property
    def all_workers(self) -> tuple[int, ...]:
        """Workers, also those that are assigned no more shards."""
        return tuple(sorted(self._queues))

    @property
    def idle(self) -> list[int]:
        """Workers with an empty queue."""
        return sorted(self._idle)

    def add_worker(self, worker: int, node: str = "", weight: float = 1.0) -> None:
        """Add a worker that runs on `node`. Of slots of leaders, each owns as many shards as its weight says."""
        self._queues[worker] = deque()
        self._nodes[worker], self._weights[worker] = node, weight
        self._update_workers()

    def weigh(self, worker: int, weight: float) -> None:
        """Change the weight of a worker."""
        if self._weights[worker] != weight:
            self._weights[worker] = weight
            self._divide()

    def drain_worker(self, worker: int) -> list[ShardKey]:
        """Assign no more shards to a worker, which finishes the running one. Returns those queued behind it."""
        self._draining.add(worker)
        queue = self._queues.get(worker, deque())
        queued = [queue.pop() for _ in range(len(queue) - 1)]
        for attempt in queued:
            self._requeue_attempt(attempt)
        self._update_workers()
        return [attempt.key for attempt in queued]

    def is_busy(self, worker: int) -> bool:
        """Whether a worker has a shard."""
        return bool(self._queues.get(worker))

    def remove_worker(self, worker: int) -> int:
        """Remove a worker. Returns how many shards are pending again because of that."""
        self._draining.discard(worker)
        queue = self._queues.pop(worker, deque())
        for throughput in self._throughput.values():
            throughput.remove(worker)
        num_requeued = sum(self._requeue_attempt(attempt) for attempt in reversed(queue))
        self._update_workers()
        return num_requeued

    def start(
        self,
        work: Work,
        shards: Sequence[Shard],
        upcoming: Sequence[Shard] = (),
        *,
        stream: bool = False,
        call_id: int | None = None,
    ) -> None:
        """Start a call. Reports of earlier calls no longer count.

        Args:
            work: What is computed. Each kind of work has a throughput of its own.
            shards: Shards with different indices.
            upcoming: Shards of the next call, if it is of the same work.
            stream: Shards are added one by one (`add_shard`). A worker has one at a time, and none is copied.
            call_id: Number of the call, larger than that of the last one; None for the next number.
        """
        self.call_id = self.call_id + 1 if call_id is None else call_id
        throughput = self._throughput.setdefault(work, Throughput())
        self._call = _Call(throughput, Pending(shards, upcoming, stream=stream))
        self._next_late_at = -math.inf
        for worker in self._queues:
            if self.call_id - self._last_finished.get(worker, self.call_id) > FORGET_AFTER_CALLS:
                for each in self._throughput.values():
                    each.remove(worker)
        self._divide()

    def add_shard(self, shard: Shard) -> None:
        """Add a shard to the present call.

        Whoever adds shards one after the other waits for the first ones: those of a slow worker do not stay behind.
        """
        call = self._call
        owner = None if call.pending.stream else call.pending.owner(shard.index)
        if owner is not None and call.throughput.is_slow(owner):
            call.pending.add_shared(shard)
            self._may_queue |= set(self._workers)
        else:
            call.pending.add(shard)
            self._owner_may_queue(shard)

    def discard(self, shard: int) -> None:
        """Forget a shard that nobody waits for any more. Running attempts at it end without effect."""
        self._call.pending.take(shard)
        self._call.num_running.pop(shard, None)

    def announce(self, shards: Sequence[Shard]) -> None:
        """Add shards of the next call to those that workers prepare."""
        self._call.pending.announce(shards)

    def has_idle_worker(self) -> bool:
        """Whether a worker stays idle unless a shard is added."""
        return len(self._idle) > len(self._call.pending)

    def requeue(self, shard: Shard, exclude: int | None) -> None:
        """Have a shard computed again whose report cannot be used: not by worker `exclude`."""
        if exclude is not None:
            self._call.pending.exclude(shard.index, exclude)
        if shard.index not in self._call.num_running:
            self._put_first(shard)

    def assign(self, now: float) -> list[Assignment]:
        """Assign pending shards to workers, and copies of late ones."""
        assignments: list[Assignment] = []
        for steal in (False, True):
            for worker in self.idle if self._call.pending else ():
                shard = self._choose_shard(worker, steal, now)
                if shard is not None:
                    assignments.append(self._assign_to(worker, shard, now))
        if self._call.pending.stream:
            return assignments
        for length in range(1, self._queue_depth):
            for worker in sorted(self._may_queue) if self._call.pending else ():
                takes_more = self._leads or not self._call.throughput.is_slow(worker)
                if len(self._queues[worker]) == length and takes_more:
                    own = self._next_of(worker)
                    if own is not None:
                        assignments.append(self._assign_to(worker, own, now))
        self._may_queue.clear()
        may_copy = self._makes_copies and not self._call.pending and self._call.num_running
        if may_copy and now >= self._next_late_at:
            assignments += self._copy_late(now)
        return assignments

    def finished(self, worker: int, key: ShardKey, now: float, *, computed: bool = True) -> tuple[bool, list[int]]:
        """Record that a worker has answered.

        Args:
            worker: The worker.
            key: Call and shard that it answered.
            now: The time.
            computed: False if it skipped the shard, since its attempt was cancelled.

        Returns:
            Whether this is the first report of a shard of the present call; the other workers that have the shard,
            whose attempts can be cancelled.
        """
        attempt = self._pop_attempt(worker, key, now)
        if attempt is None:
            return False, []
        if not computed:
            self._requeue_attempt(attempt)  # unless it has been reported, which is why it was cancelled
            return False, []
        attempt.throughput.record(worker, (now - attempt.since) / max(1, len(attempt.shard.specs)))
        self._last_finished[worker] = self.call_id
        num_running = self._call.num_running.pop(key[1], 0) if key[0] == self.call_id else 0
        if num_running < MAX_COPIES:
            return num_running == 1, []
        others = [other for other, queue in self._queues.items() if any(attempt.key == key for attempt in queue)]
        return True, others

    def failed(self, worker: int, key: ShardKey, now: float, exclude: int | None) -> bool:
        """Record that a worker failed at a shard. Returns whether the shard is pending again."""
        attempt = self._pop_attempt(worker, key, now)
        if attempt is None:
            return False
        if exclude is not None and key[0] == self.call_id:
            self._call.pending.exclude(key[1], exclude)
        return self._requeue_attempt(attempt)

    def next_check_at(self, now: float) -> float:
        """When to call `assign` if nothing happens: when the next shard becomes late. Infinite if none can."""
        unfinished = self._call.num_running and not self._call.pending and not self._call.pending.stream
        can_copy = self._makes_copies and unfinished and self._call.throughput.typical() is not None and self._idle
        return max(now, self._next_late_at) if can_copy else math.inf

    def _pop_attempt(self, worker: int, key: ShardKey, now: float) -> Attempt | None:
        queue = self._queues.get(worker, deque())
        attempt = next((attempt for attempt in queue if attempt.key == key), None)
        if attempt is None:
            return None
        # Not always the first one: a large answer may arrive after a later, small one.
        queue.remove(attempt)
        if worker not in self._draining:
            self._may_queue.add(worker)
        if queue:
            queue[0].since = max(queue[0].since, now)
        elif worker not in self._draining:
            # The first idle worker, or one that is faster than those, may copy at once what a slow one has.
            if not self._idle or self._call.throughput.is_slow(next(iter(self._idle))):
                self._next_late_at = -math.inf
            self._idle.add(worker)
        return attempt

    def _requeue_attempt(self, attempt: Attempt) -> bool:
        """Make a shard pending again unless another copy runs. Returns whether it is."""
        call_id, index = attempt.key
        if call_id != self.call_id or index not in self._call.num_running:
            return False
        self._call.num_running[index] -= 1
        if self._call.num_running[index]:
            return False
        del self._call.num_running[index]
        self._put_first(attempt.shard)
        return True

    def _put_first(self, shard: Shard) -> None:
        self._call.pending.put_first(shard)
        self._call.refused.clear()
        self._owner_may_queue(shard)

    def _owner_may_queue(self, shard: Shard) -> None:
        owner = self._call.pending.owner(shard.index)
        if owner is not None:
            self._may_queue.add(owner)

    def _assign_to(self, worker: int, shard: Shard, now: float) -> Assignment:
        call = self._call
        call.pending.take(shard.index)
        call.num_running[shard.index] = call.num_running.get(shard.index, 0) + 1
        self._idle.discard(worker)
        self._queues[worker].append(Attempt((self.call_id, shard.index), shard, call.throughput, now))
        upcoming = self._next_of(worker) or call.pending.announced(worker)
        return Assignment(worker, shard, upcoming)

    def _update_workers(self) -> None:
        """Recompute what depends on the set of workers."""
        self._workers = tuple(sorted(self._queues.keys() - self._draining))
        self._idle = {worker for worker in self._workers if not self._queues[worker]}
        self._next_late_at = -math.inf
        self._divide()

    def _divide(self) -> None:
        self._call.pending.divide(self._workers, self._owners_of)
        self._call.refused.clear()
        self._may_queue = set(self._workers)

    def _owners_of(self, num_shards: int) -> Sequence[int]:
        if self._leads:
            weights = tuple(self._weights[worker] for worker in self._workers)
            return owners_by_weight(self._workers, weights, num_shards)
        return owners_by_node(self._workers, self._nodes, num_shards)

    def _next_of(self, worker: int) -> Shard | None:
        return self._call.pending.next_of(worker, slow=self._call.throughput.is_slow(worker))

    def _choose_shard(self, worker: int, steal: bool, now: float) -> Shard | None:
        """A shard for an idle worker: one that failed elsewhere, its own next, or (`steal`) the last one of others."""
        call = self._call
        shard = call.pending.failed_elsewhere(worker) or self._next_of(worker)
        if shard is None and steal:
            shard = call.pending.last_allowed(worker)
        if shard is None or call.pending.stream or not call.throughput.is_slow(worker):
            return shard
        if now < call.refused.get(worker, -math.inf):
            return None
        if self._would_delay(worker, shard, now):
            call.refused[worker] = now + LATE_MARGIN_S
            return None
        return shard

    def _would_delay(self, worker: int, shard: Shard, now: float) -> bool:
        """Whether a slow worker would delay the end of the call by computing the shard that others may compute."""
        throughput = self._call.throughput
        typical_s = (throughput.typical() or 0.0) * max(1, len(shard.specs))
        if duration_s(throughput, worker, shard) - typical_s < MIN_DELAY_S:
            return False
        others = {
            other: self._queues[other]
            for other in self._workers
            if other != worker and self._call.pending.is_allowed(other, shard.index)
        }
        if not others:
            return False
        return would_finish_last(throughput, worker, shard, len(self._call.pending), others, now)

    def _copy_late(self, now: float) -> list[Assignment]:
        """Assign late shards to idle workers as well, where that gains time."""
        call = self._call
        if not self._idle or call.throughput.typical() is None:
            return []
        copies, self._next_late_at = copies_of_late(
            call.throughput,
            self._queues,
            self._idle,
            self._may_copy,
            call.pending.is_allowed,
            now,
            LEAD_PATIENCE if self._leads else 1.0,
        )
        self.copies += len(copies)
        return [self._assign_to(worker, shard, now) for worker, shard in copies]

    def _may_copy(self, attempt: Attempt) -> bool:
        call_id, index = attempt.key
        return call_id == self.call_id and 0 < self._call.num_running.get(index, 0) < MAX_COPIES
