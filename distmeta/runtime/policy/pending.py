"""Shards that no worker computes yet, and which worker takes each of them first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from distmeta.core.types import Shard
from distmeta.server.tree import FAN_IN


class Pending:
    """The pending shards of one call. Each has an owner, the worker that takes it first: index modulo workers.

    Args:
        shards: Shards with different indices.
        upcoming: Shards of the next call, of which workers prepare their first one.
        stream: Shards are added one by one, and all that are there at a time go to whoever is idle.

    Attributes:
        shards: By index, in the order in which they are assigned.
        excluded: Workers that failed at a shard, by its index.
        stream: As given.
    """

    def __init__(self, shards: Sequence[Shard] = (), upcoming: Sequence[Shard] = (), *, stream: bool = False) -> None:
        self.shards = {shard.index: shard for shard in shards}
        self.excluded: dict[int, set[int]] = {}
        self.stream = stream
        self._size = len(shards)
        self._upcoming = list(upcoming)
        self._workers: tuple[int, ...] = ()
        self._owners_of: Callable[[int], Sequence[int]] = lambda num_shards: ()
        self._owners: Sequence[int] = ()
        """Owners of shards 0, 1, ...; the list repeats."""
        self._own: dict[int, deque[int]] = {}
        """Indices of pending shards, by owner."""
        self._shared: deque[int] = deque()
        """Indices of shards that were added when their owner was slow: any other takes them first."""
        self._announced: dict[int, Shard] = {}
        """The first of the upcoming shards that each worker will own."""

    def __len__(self) -> int:
        return len(self.shards)

    def divide(self, workers: Sequence[int], owners_of: Callable[[int], Sequence[int]]) -> None:
        """Divide the pending shards, and the upcoming ones, among the workers.

        Args:
            workers: The workers.
            owners_of: Returns the owners of shards 0, 1, ... of so many; the list repeats.
        """
        self._workers = tuple(workers)
        self._owners_of = owners_of
        self._own = {worker: deque() for worker in workers}
        self._owners = owners_of(self._size) if workers else ()
        self._shared.clear()
        for index in self.shards:
            self._give(index)
        self._divide_upcoming()

    def announce(self, shards: Sequence[Shard]) -> None:
        """Add shards of the next call to those that workers prepare."""
        self._upcoming += shards
        self._divide_upcoming()

    def announced(self, worker: int) -> Shard | None:
        """The shard of the next call that a worker will own first."""
        return self._announced.get(worker)

    def owner(self, index: int) -> int | None:
        """The worker that takes a shard first; None where there are no workers."""
        return self._owners[index % len(self._owners)] if self._owners else None

    def add(self, shard: Shard) -> None:
        """Add a shard as the last one of its owner."""
        self.shards[shard.index] = shard
        self._give(shard.index)

    def add_shared(self, shard: Shard) -> None:
        """Add a shard whose owner is slow: any other worker takes it before its own."""
        self.shards[shard.index] = shard
        self._shared.append(shard.index)

    def put_first(self, shard: Shard) -> None:
        """Make a shard the first one, of all and of its owner."""
        self.shards = {shard.index: shard, **self.shards}
        self._give(shard.index, first=True)

    def take(self, index: int) -> None:
        """Remove a shard, if it is pending."""
        self.shards.pop(index, None)

    def exclude(self, index: int, worker: int) -> None:
        """Keep a shard from a worker that failed at it."""
        self.excluded.setdefault(index, set()).add(worker)

    def is_allowed(self, worker: int, index: int) -> bool:
        """Whether a worker may get a shard: not one that it failed at, as long as there is another worker."""
        excluded = self.excluded.get(index, ())
        return worker not in excluded or all(each in excluded for each in self._workers)

    def failed_elsewhere(self, worker: int) -> Shard | None:
        """A pending shard that others failed at and this worker may get."""
        failed = (self.shards[index] for index in self.excluded if index in self.shards)
        return next((shard for shard in failed if self.is_allowed(worker, shard.index)), None)

    def next_of(self, worker: int, *, slow: bool) -> Shard | None:
        """The first pending shard that a worker owns, or may take before those that it owns, where it is not slow."""
        while self._shared and self._shared[0] not in self.shards:
            self._shared.popleft()
        if self._shared and not slow and self.is_allowed(worker, self._shared[0]):
            return self.shards[self._shared[0]]
        own = self._own[worker]
        while own and own[0] not in self.shards:
            own.popleft()
        return self.shards[own[0]] if own and self.is_allowed(worker, own[0]) else None

    def last_allowed(self, worker: int) -> Shard | None:
        """The last pending shard that a worker may take from another."""
        shards: Iterator[Shard] = reversed(self.shards.values())
        return next((shard for shard in shards if self.is_allowed(worker, shard.index)), None)

    def _divide_upcoming(self) -> None:
        self._announced = {}
        by_index = self._owners_of(len(self._upcoming)) if self._workers else ()
        for shard in self._upcoming if by_index else ():
            self._announced.setdefault(by_index[shard.index % len(by_index)], shard)

    def _give(self, index: int, *, first: bool = False) -> None:
        owner = self.owner(index)
        if owner is not None:
            own = self._own[owner]
            own.insert(0 if first else len(own), index)


def owners_by_node(workers: Sequence[int], nodes: Mapping[int, str], num_shards: int) -> list[int]:
    """The workers that own shards 0, 1, ...; the list repeats.

    One worker after the other. If there is at least one group of shards for each node, the shards of a group belong to
    one node, since groups are summed near their workers.
    """
    by_node: dict[str, list[int]] = {}
    for worker in workers:
        by_node.setdefault(nodes[worker], []).append(worker)
    if len(by_node) < 2 or num_shards < len(by_node) * FAN_IN:
        return list(workers)
    return [node[index % len(node)] for node in by_node.values() for index in range(FAN_IN)]


@lru_cache(maxsize=8)
def owners_by_weight(workers: tuple[int, ...], weights: tuple[float, ...], num_shards: int) -> tuple[int, ...]:
    """The workers that own so many shards: each as many as its weight says, spread over the whole list."""
    if len(set(weights)) < 2:
        return workers
    credits, total, owners = list(weights), sum(weights), []
    for _ in range(num_shards):
        position = max(range(len(workers)), key=credits.__getitem__)
        owners.append(workers[position])
        credits[position] -= total
        credits = [credit + weight for credit, weight in zip(credits, weights, strict=True)]
    return tuple(owners) or workers
