"""Who computes which shard: a pure machine without clock or processes, so that every case is tested as arithmetic.

    begin(shards); hand_out(now) -> orders     idle workers take their own shards first (index modulo workers), then
    finished(...), failed(...)                 those of others, the last ones first; each has one queued ahead
    join(worker), leave(worker)                whatever a worker held goes back to the front of what is pending

Each worker's throughput is learned. A worker much slower than the others gets a shard only if it
would be done with it before the others have done all the rest. A shard that is late when nothing else is left to do is
given to an idle worker as well (backup tasks: Dean & Ghemawat 2004, "MapReduce", section 3.6); shards are pure
functions of their snapshot, so the first report serves, and both have the same bits.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from distmeta.core.types import Shard, Work
from distmeta.runtime.policy.throughput import Paces
from distmeta.server.tree import FAN_IN

Key = tuple[int, int]
"""Number of the call (`Schedule.epoch`) and index of the shard."""

LATE, LATE_BY_S = 1.5, 0.1
"""A shard is late after this many times, and this long beyond, what its worker should need."""
GAIN = 1.2
"""A copy must promise to be done this many of its own durations before the attempt that it doubles."""
MOST_COPIES = 2
FORGET_AFTER = 50
"""Calls after which a worker that was given nothing is taken for a typical one, so that it gets another chance."""


@dataclass(frozen=True)
class Order:
    """`worker` shall compute `shard`, and will probably get `following` next."""

    worker: int
    shard: Shard
    following: Shard | None


@dataclass
class _Attempt:
    """A shard in a worker's hands, `since` it was handed out or became the first of its calls."""

    key: Key
    work: Work
    shard: Shard
    since: float


@dataclass
class _Job:
    """The shards of one call: those that nobody has, and in how many hands the others are."""

    work: Work
    upcoming: Sequence[Shard] = ()
    pending: dict[int, Shard] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    excluded: dict[int, set[int]] = field(default_factory=dict)
    own: list[deque[int]] = field(default_factory=list)
    size: int = 0
    stream: bool = False


class Schedule:
    """The state of the hand-outs. Times are seconds of any monotonic clock.

    Args:
        ahead: Calls that a worker may have at a time: the one it computes and those queued behind it.
        speculate: Give late shards to idle workers as well.

    Attributes:
        epoch: Number of the present call.
        copies: Shards given to a second worker since the start.
    """

    def __init__(self, *, ahead: int = 2, speculate: bool = True) -> None:
        self.epoch = 0
        self.copies = 0
        self._ahead, self._speculate = ahead, speculate
        self._calls: dict[int, deque[_Attempt]] = {}
        self._workers: tuple[int, ...] = ()
        self._places_of: dict[int, int] = {}
        self._retired: set[int] = set()
        self._idle: set[int] = set()
        self._double_at = -math.inf
        """No shard can be late before."""
        self._nodes: dict[int, str] = {}
        self._paces = Paces()
        self._last_sample: dict[int, int] = {}
        self._job = _Job(Work(""))

    @property
    def workers(self) -> tuple[int, ...]:
        """Those that get shards, in order."""
        return self._workers

    @property
    def idle(self) -> list[int]:
        """Workers with nothing to do."""
        return sorted(self._idle)

    def join(self, worker: int, node: str = "") -> None:
        """A worker is at hand, on a node."""
        self._calls[worker] = deque()
        self._nodes[worker] = node
        self._muster()

    def retire(self, worker: int) -> list[Key]:
        """A worker may finish what it computes, and gets no more. Returns what was queued and now is for others."""
        self._retired.add(worker)
        calls = self._calls.get(worker, deque())
        queued = [calls.pop() for _ in range(len(calls) - 1)]
        for attempt in queued:
            self._give_back(attempt)
        self._muster()
        return [attempt.key for attempt in queued]

    def busy(self, worker: int) -> bool:
        """Whether the worker has a call to answer."""
        return bool(self._calls.get(worker))

    def leave(self, worker: int) -> int:
        """A worker is gone. Returns how many shards nobody has on its account."""
        self._retired.discard(worker)
        calls = self._calls.pop(worker, deque())
        self._paces.forget(worker)
        returned = sum(self._give_back(attempt) for attempt in reversed(calls))
        self._muster()
        return returned

    def begin(
        self, work: Work, shards: Sequence[Shard], upcoming: Sequence[Shard] = (), *, stream: bool = False
    ) -> None:
        """Start a call. What is still computed of the one before is no longer wanted.

        Args:
            work: What is computed; each has a throughput of its own.
            shards: The work; their indices differ.
            upcoming: The next call's shards, if it is of the same work.
            stream: Shards come one by one, by `add`; a worker has one at a time, and none is given to two.
        """
        self.epoch += 1
        self._job = _Job(work, upcoming, {shard.index: shard for shard in shards}, size=len(shards), stream=stream)
        self._double_at = -math.inf
        for worker in self._calls:
            if self.epoch - self._last_sample.get(worker, self.epoch) > FORGET_AFTER:
                self._paces.forget(worker)
        self._divide()

    def add(self, shard: Shard) -> None:
        """One more shard of the present call."""
        self._job.pending[shard.index] = shard
        self._divide()

    def wants(self) -> bool:
        """Whether a worker would be idle if no shard were added."""
        return len(self._idle) > len(self._job.pending)

    def again(self, shard: Shard, exclude: int | None) -> None:
        """A shard has to be computed again: its attempt failed, or its report is not accepted; not by `exclude`."""
        if exclude is not None:
            self._job.excluded.setdefault(shard.index, set()).add(exclude)
        if shard.index not in self._job.held:
            self._job.pending = {shard.index: shard, **self._job.pending}
            self._divide()

    def hand_out(self, now: float) -> list[Order]:
        """What to order now, so that no worker stands idle that could help."""
        orders: list[Order] = []
        for steal in (False, True):
            for worker in self.idle if self._job.pending else ():
                shard = self._choose(worker, steal, now)
                if shard is not None:
                    orders.append(self._give(worker, shard, now))
        if self._job.stream:
            return orders
        for calls in range(1, self._ahead):
            for worker in self._workers if self._job.pending else ():
                if len(self._calls[worker]) == calls and not self._paces.slow(self._job.work, worker):
                    own = self._own(worker)
                    if own is not None:
                        orders.append(self._give(worker, own, now))
        if self._speculate and not self._job.pending and self._job.held and now >= self._double_at:
            orders += self._double(now)
        return orders

    def finished(self, worker: int, key: Key, now: float, *, computed: bool = True) -> tuple[bool, list[int]]:
        """A worker has answered its first call.

        Args:
            worker: Which one.
            key: The call and shard that it answered.
            now: The time.
            computed: False if it left out the shard, since it had been told that another has done it.

        Returns:
            Whether this is the first report of a shard of the present call; the workers that have the shard as well
            and need not compute it any more.
        """
        attempt = self._drop(worker, key, now)
        if attempt is None or not computed:
            return False, []
        seconds = (now - attempt.since) / max(1, len(attempt.shard.specs))
        self._paces.record(attempt.work, worker, seconds)
        self._last_sample[worker] = self.epoch
        hands = self._job.held.pop(key[1], 0) if key[0] == self.epoch else 0
        if hands < MOST_COPIES:
            return hands == 1, []
        others = [other for other, calls in self._calls.items() if any(call.key == key for call in calls)]
        return True, others

    def failed(self, worker: int, key: Key, now: float, exclude: int | None) -> bool:
        """A worker's first call has failed, the worker lives on. Returns whether nobody else has the shard."""
        attempt = self._drop(worker, key, now)
        if attempt is None:
            return False
        if exclude is not None and key[0] == self.epoch:
            self._job.excluded.setdefault(key[1], set()).add(exclude)
        return bool(self._give_back(attempt, divide=True))

    def wake(self, now: float) -> float:
        """When to call `hand_out` again if nothing happens: the next shard will be late then. Infinite if none can."""
        unfinished = self._job.held and not self._job.pending and not self._job.stream
        known = self._paces.typical(self._job.work) is not None
        return max(now, self._double_at) if self._speculate and unfinished and known and self._idle else math.inf

    def _drop(self, worker: int, key: Key, now: float) -> _Attempt | None:
        calls = self._calls.get(worker, deque())
        attempt = next((one for one in calls if one.key == key), None)
        if attempt is None:
            return None
        # Not always the first one: a large answer may still be on its way when the one after it has arrived.
        calls.remove(attempt)
        if calls:
            calls[0].since = max(calls[0].since, now)
        elif worker not in self._retired:
            # The first one that is idle, or one that is faster than those, may double at once what a slow one has.
            if not self._idle or self._paces.slow(self._job.work, min(self._idle)):
                self._double_at = -math.inf
            self._idle.add(worker)
        return attempt

    def _give_back(self, attempt: _Attempt, *, divide: bool = False) -> int:
        epoch, index = attempt.key
        if epoch != self.epoch or index not in self._job.held:
            return 0
        self._job.held[index] -= 1
        if self._job.held[index]:
            return 0
        del self._job.held[index]
        self._job.pending = {index: attempt.shard, **self._job.pending}
        if divide:
            self._divide()
        return 1

    def _give(self, worker: int, shard: Shard, now: float) -> Order:
        self._job.pending.pop(shard.index, None)
        self._job.held[shard.index] = self._job.held.get(shard.index, 0) + 1
        self._idle.discard(worker)
        self._calls[worker].append(_Attempt((self.epoch, shard.index), self._job.work, shard, now))
        following = self._own(worker)
        if following is None and self._job.upcoming:
            place = self._places_of[worker]
            places = self._places(len(self._job.upcoming))
            following = next((one for one in self._job.upcoming if places[one.index % len(places)] == place), None)
        return Order(worker, shard, following)

    def _muster(self) -> None:
        """The workers have changed."""
        self._workers = tuple(sorted(self._calls.keys() - self._retired))
        self._places_of = {worker: place for place, worker in enumerate(self._workers)}
        self._idle = {worker for worker in self._workers if not self._calls[worker]}
        self._double_at = -math.inf
        self._divide()

    def _divide(self) -> None:
        """Write down whose the pending shards are."""
        self._job.own = [deque() for _ in self._workers]
        places = self._places(self._job.size)
        for index in self._job.pending if places else ():
            self._job.own[places[index % len(places)]].append(index)

    def _places(self, size: int) -> list[int]:
        """For shards 0, 1, ... in turn, which worker (by its place in `workers`) should compute them.

        One after the other. Where there are groups enough for all nodes, those of a group on one node, since groups are
        added near their workers.
        """
        at: dict[str, list[int]] = {}
        for place, worker in enumerate(self.workers):
            at.setdefault(self._nodes[worker], []).append(place)
        if len(at) < 2 or size < len(at) * FAN_IN:
            return list(range(len(self._workers)))
        return [node[index % len(node)] for node in at.values() for index in range(FAN_IN)]

    def _own(self, worker: int) -> Shard | None:
        """The first of the worker's own shards that nobody has taken."""
        own = self._job.own[self._places_of[worker]]
        while own and own[0] not in self._job.pending:
            own.popleft()
        return self._job.pending[own[0]] if own and self._allowed(worker, own[0]) else None

    def _choose(self, worker: int, steal: bool, now: float) -> Shard | None:
        pending = self._job.pending
        failed = [index for index in self._job.excluded if index in pending and self._allowed(worker, index)]
        shard = pending[failed[0]] if failed else self._own(worker)
        if shard is None and steal:
            shard = next((one for index, one in reversed(pending.items()) if self._allowed(worker, index)), None)
        if shard is None or (not self._job.stream and self._would_delay(worker, shard, now)):
            return None
        return shard

    def _allowed(self, worker: int, index: int) -> bool:
        """A shard does not go back to a worker that it failed on, as long as there is another."""
        excluded = self._job.excluded.get(index, ())
        return worker not in excluded or all(one in excluded for one in self.workers)

    def _duration(self, worker: int, shard: Shard) -> float:
        return (self._paces.of(self._job.work, worker) or 0.0) * max(1, len(shard.specs))

    def _late_at(self, worker: int, attempt: _Attempt) -> float:
        duration = self._duration(worker, attempt.shard)
        return attempt.since + max(LATE * duration, duration + LATE_BY_S)

    def _ends(self, worker: int, now: float) -> list[float]:
        """When each of the worker's calls should be done. One that is late is taken to need as long again."""
        ends: list[float] = []
        for attempt in self._calls[worker]:
            begin = ends[-1] if ends else attempt.since
            end = begin + self._duration(worker, attempt.shard)
            if not ends and now >= self._late_at(worker, attempt):
                end = now + (now - attempt.since)
            ends.append(max(end, now))
        return ends

    def _would_delay(self, worker: int, shard: Shard, now: float) -> bool:
        """True if the others would have done all that is pending before this slow worker has done the shard."""
        others = [one for one in self.workers if one != worker]
        if not others or not self._paces.slow(self._job.work, worker):
            return False
        free = [((ends or [now])[-1], one) for one in others for ends in [self._ends(one, now)]]
        heap = [(begin + self._duration(one, shard), one) for begin, one in free]
        heapq.heapify(heap)
        last = now
        for _ in self._job.pending:
            last, one = heap[0]
            heapq.heapreplace(heap, (last + self._duration(one, shard), one))
        return now + self._duration(worker, shard) > last

    def _double(self, now: float) -> list[Order]:
        """Give the attempts that will end last to idle workers as well, the fastest first, where that gains time."""
        idle = sorted(self.idle, key=lambda worker: (self._paces.of(self._job.work, worker) or 0.0, worker))
        if not idle or self._paces.typical(self._job.work) is None:
            return []
        limits = [self._late_at(worker, calls[0]) for worker, calls in self._calls.items() if calls]
        self._double_at = min((limit for limit in limits if limit > now), default=math.inf)
        waiting = [
            (end, -attempt.shard.index, attempt.shard)
            for worker, calls in self._calls.items()
            for attempt, end in zip(calls, self._ends(worker, now), strict=True)
            if attempt.key[0] == self.epoch and 0 < self._job.held.get(attempt.key[1], 0) < MOST_COPIES
        ]
        orders: list[Order] = []
        for end, _, shard in sorted(waiting, key=lambda one: one[:2], reverse=True):
            worker = next((one for one in idle if self._allowed(one, shard.index)), None)
            if worker is None:
                break
            gain_at = now + GAIN * self._duration(worker, shard)
            if gain_at >= end:
                # Not yet; one that is late already may be worth doubling when it is later still.
                self._double_at = min(self._double_at, now + max(LATE_BY_S, gain_at - end))
                break
            idle.remove(worker)
            self.copies += 1
            orders.append(self._give(worker, shard, now))
        return orders
