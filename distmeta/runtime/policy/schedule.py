"""Which worker computes which shard: a state machine without clock or processes, tested as arithmetic.

    start(shards); assign(now) -> assignments     idle workers take their own shards first (index modulo workers),
    finished(...), failed(...)                    then those of others, the last ones first; each has one more queued
    add_worker(worker), remove_worker(worker)     the shards of a removed worker are assigned first

Each worker's throughput is measured. A worker that is much slower than the others gets a shard only if it would finish
it before the others have finished all the rest. When nothing is pending, a late shard is assigned to an idle worker as
well (backup tasks: Dean & Ghemawat 2004, "MapReduce", section 3.6). A shard is a pure function of its snapshot, so both
reports have the same bits and the first one counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from distmeta.core.types import Shard, Work
from distmeta.runtime.policy.estimates import (
    LATE_MARGIN_S,
    Attempt,
    ShardKey,
    duration_s,
    expected_ends,
    late_at,
    would_finish_last,
)
from distmeta.runtime.policy.throughput import Throughput
from distmeta.server.tree import FAN_IN

MIN_GAIN = 1.2
"""A copy must be expected to end this many of its own durations before the attempt that it copies."""
MIN_DELAY_S = 0.005
"""A worker that needs so little more than others for a shard delays no call: a message may take as long."""
MAX_COPIES = 2
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
        upcoming: Shards of the next call.
        pending: Shards that no worker computes, in the order in which they are assigned.
        num_running: Number of running copies of each of the others.
        excluded: Workers that failed at a shard.
        own: Indices of pending shards, by position of the worker that takes them first.
        shared: Indices of pending shards that were added when their owner was slow: any other takes them first.
        owners: Positions of the workers that own shards 0, 1, ...; the list repeats.
        refused: When a slow worker that would delay the call may be considered again.
        announced: The first of the upcoming shards that each worker will own, by its position.
        size: Number of shards; 0 of a stream.
        stream: Shards are added one by one.
    """

    throughput: Throughput
    upcoming: Sequence[Shard] = ()
    pending: dict[int, Shard] = field(default_factory=dict)
    num_running: dict[int, int] = field(default_factory=dict)
    excluded: dict[int, set[int]] = field(default_factory=dict)
    own: list[deque[int]] = field(default_factory=list)
    shared: deque[int] = field(default_factory=deque)
    owners: list[int] = field(default_factory=list)
    refused: dict[int, float] = field(default_factory=dict)
    announced: dict[int, Shard] = field(default_factory=dict)
    size: int = 0
    stream: bool = False


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
        self._positions: dict[int, int] = {}
        self._draining: set[int] = set()
        self._idle: set[int] = set()
        self._may_queue: set[int] = set()
        """Workers that may have room for a shard of their own behind the one that they compute."""
        self._nodes: dict[int, str] = {}
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

    def add_worker(self, worker: int, node: str = "") -> None:
        """Add a worker that runs on `node`."""
        self._queues[worker] = deque()
        self._nodes[worker] = node
        self._update_workers()

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
        pending = {shard.index: shard for shard in shards}
        self._call = _Call(throughput, upcoming, pending, size=len(shards), stream=stream)
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
        call.pending[shard.index] = shard
        owner = call.owners[shard.index % len(call.owners)] if call.owners and not call.stream else None
        if owner is not None and call.throughput.is_slow(self._workers[owner]):
            call.shared.append(shard.index)
            self._may_queue |= set(self._workers)
        else:
            self._give(shard.index)

    def discard(self, shard: int) -> None:
        """Forget a shard that nobody waits for any more. Running attempts at it end without effect."""
        self._call.pending.pop(shard, None)
        self._call.num_running.pop(shard, None)

    def announce(self, shards: Sequence[Shard]) -> None:
        """Add shards of the next call to those that workers prepare."""
        self._call.upcoming = [*self._call.upcoming, *shards]
        self._divide_upcoming()

    def has_idle_worker(self) -> bool:
        """Whether a worker stays idle unless a shard is added."""
        return len(self._idle) > len(self._call.pending)

    def requeue(self, shard: Shard, exclude: int | None) -> None:
        """Have a shard computed again whose report cannot be used: not by worker `exclude`."""
        if exclude is not None:
            self._call.excluded.setdefault(shard.index, set()).add(exclude)
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
        if self._call.stream:
            return assignments
        for length in range(1, self._queue_depth):
            for worker in sorted(self._may_queue) if self._call.pending else ():
                takes_more = self._leads or not self._call.throughput.is_slow(worker)
                if len(self._queues[worker]) == length and takes_more:
                    own = self._next_own(worker)
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
            self._call.excluded.setdefault(key[1], set()).add(exclude)
        return self._requeue_attempt(attempt)

    def next_check_at(self, now: float) -> float:
        """When to call `assign` if nothing happens: when the next shard becomes late. Infinite if none can."""
        unfinished = self._call.num_running and not self._call.pending and not self._call.stream
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
        self._call.pending = {shard.index: shard, **self._call.pending}
        self._call.refused.clear()
        self._give(shard.index, first=True)

    def _assign_to(self, worker: int, shard: Shard, now: float) -> Assignment:
        call = self._call
        call.pending.pop(shard.index, None)
        call.num_running[shard.index] = call.num_running.get(shard.index, 0) + 1
        self._idle.discard(worker)
        self._queues[worker].append(Attempt((self.call_id, shard.index), shard, call.throughput, now))
        upcoming = self._next_own(worker) or call.announced.get(self._positions[worker])
        return Assignment(worker, shard, upcoming)

    def _update_workers(self) -> None:
        """Recompute what depends on the set of workers."""
        self._workers = tuple(sorted(self._queues.keys() - self._draining))
        self._positions = {worker: position for position, worker in enumerate(self._workers)}
        self._idle = {worker for worker in self._workers if not self._queues[worker]}
        self._next_late_at = -math.inf
        self._divide()

    def _divide(self) -> None:
        """Divide the pending shards, and the upcoming ones, among the workers."""
        call = self._call
        call.own, call.owners = [deque() for _ in self._workers], self._owners(call.size)
        call.refused.clear()
        call.shared.clear()
        self._may_queue = set(self._workers)
        for index in call.pending:
            self._give(index)
        self._divide_upcoming()

    def _divide_upcoming(self) -> None:
        call, self._call.announced = self._call, {}
        owners = self._owners(len(call.upcoming))
        for shard in call.upcoming if owners else ():
            call.announced.setdefault(owners[shard.index % len(owners)], shard)

    def _give(self, index: int, *, first: bool = False) -> None:
        """Let the worker that owns a pending shard take it: as its last one, or `first`."""
        owners = self._call.owners
        if owners:
            own = self._call.own[owners[index % len(owners)]]
            own.insert(0 if first else len(own), index)
            self._may_queue.add(self._workers[owners[index % len(owners)]])

    def _owners(self, num_shards: int) -> list[int]:
        """Positions (in `workers`) of the workers that own shards 0, 1, ...; the list repeats.

        One worker after the other. If there is at least one group of shards for each node, the shards of a group belong
        to one node, since groups are summed near their workers.
        """
        by_node: dict[str, list[int]] = {}
        for position, worker in enumerate(self._workers):
            by_node.setdefault(self._nodes[worker], []).append(position)
        if len(by_node) < 2 or num_shards < len(by_node) * FAN_IN:
            return list(range(len(self._workers)))
        return [node[index % len(node)] for node in by_node.values() for index in range(FAN_IN)]

    def _next_own(self, worker: int) -> Shard | None:
        """The first pending shard that a worker owns, or may take before those that it owns."""
        call = self._call
        while call.shared and call.shared[0] not in call.pending:
            call.shared.popleft()
        if call.shared and not call.throughput.is_slow(worker) and self._is_allowed(worker, call.shared[0]):
            return call.pending[call.shared[0]]
        own = self._call.own[self._positions[worker]]
        while own and own[0] not in self._call.pending:
            own.popleft()
        return self._call.pending[own[0]] if own and self._is_allowed(worker, own[0]) else None

    def _choose_shard(self, worker: int, steal: bool, now: float) -> Shard | None:
        """A shard for an idle worker: one that failed elsewhere, its own next, or (`steal`) the last one of others."""
        call = self._call
        failed = [index for index in call.excluded if index in call.pending and self._is_allowed(worker, index)]
        shard = call.pending[failed[0]] if failed else self._next_own(worker)
        if shard is None and steal:
            allowed = (each for index, each in reversed(call.pending.items()) if self._is_allowed(worker, index))
            shard = next(allowed, None)
        if shard is None or call.stream or not call.throughput.is_slow(worker):
            return shard
        if now < call.refused.get(worker, -math.inf):
            return None
        if self._would_delay(worker, shard, now):
            call.refused[worker] = now + LATE_MARGIN_S
            return None
        return shard

    def _is_allowed(self, worker: int, index: int) -> bool:
        """Whether a worker may get a shard: not one that it failed at, as long as there is another worker."""
        excluded = self._call.excluded.get(index, ())
        return worker not in excluded or all(each in excluded for each in self._workers)

    def _would_delay(self, worker: int, shard: Shard, now: float) -> bool:
        """Whether a slow worker would delay the end of the call by computing the shard that others may compute."""
        throughput = self._call.throughput
        typical_s = (throughput.typical() or 0.0) * max(1, len(shard.specs))
        if duration_s(throughput, worker, shard) - typical_s < MIN_DELAY_S:
            return False
        others = {
            other: self._queues[other]
            for other in self._workers
            if other != worker and self._is_allowed(other, shard.index)
        }
        if not others:
            return False
        return would_finish_last(throughput, worker, shard, len(self._call.pending), others, now)

    def _copy_late(self, now: float) -> list[Assignment]:
        """Assign the attempts that will end last to idle workers as well, the fastest first, where that gains time."""
        throughput, num_running = self._call.throughput, self._call.num_running
        idle = sorted(self._idle, key=lambda worker: (throughput.seconds_per_task(worker) or 0.0, worker))
        if not idle or throughput.typical() is None:
            return []
        limits = [late_at(throughput, worker, queue[0]) for worker, queue in self._queues.items() if queue]
        self._next_late_at = min((limit for limit in limits if limit > now), default=math.inf)
        running = [
            (end, -attempt.shard.index, attempt.shard)
            for worker, queue in self._queues.items()
            for attempt, end in zip(queue, expected_ends(throughput, worker, queue, now), strict=True)
            if attempt.key[0] == self.call_id and 0 < num_running.get(attempt.key[1], 0) < MAX_COPIES
        ]
        assignments: list[Assignment] = []
        for end, _, shard in sorted(running, key=lambda entry: entry[:2], reverse=True):
            worker = next((worker for worker in idle if self._is_allowed(worker, shard.index)), None)
            if worker is None:
                break
            gains_until = now + MIN_GAIN * duration_s(throughput, worker, shard)
            if gains_until >= end:
                # Not yet; a copy of an attempt that is late already may gain time when it is later still.
                self._next_late_at = min(self._next_late_at, now + max(LATE_MARGIN_S, gains_until - end))
                break
            idle.remove(worker)
            self.copies += 1
            assignments.append(self._assign_to(worker, shard, now))
        return assignments
