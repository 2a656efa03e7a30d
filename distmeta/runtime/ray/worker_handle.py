"""What the driver knows of one worker: its state, its queue, when it was last heard. Knows no Ray and no clock.

A worker is one actor, or several ranks that hold a network in parts: it is ready when all are, and fails when one does.

pending (for resources) -> starting (builds its program) -> ready -> draining (its node is being drained)
   ^                                                          |
   +-- backoff (after failures, growing) <--------------------+         excluded: failed too often
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.startup import StartUp

if TYPE_CHECKING:
    from distmeta.runtime.messages import Location
    from distmeta.runtime.shared import SharedReader

State = Literal["pending", "starting", "ready", "draining", "backoff", "excluded"]

HEARTBEATS_PER_TIMEOUT = 4
"""Heartbeats that are requested within `heartbeat_timeout_s`."""


@dataclass(eq=False)
class RankHandle:
    """One process of a worker. All times are seconds of one monotonic clock.

    Attributes:
        actor: Handle of the Ray actor; None if it was stopped.
        location: Node and process, once known.
        memory: Its memory, if this process can read it.
        last_heard: Last answer of any kind.
        last_pinged: Last request for a heartbeat.
        unanswered_since: First request for a heartbeat since `last_heard`.
    """

    actor: Any
    location: Location | None = None
    memory: SharedReader | None = None
    last_heard: float = 0.0
    last_pinged: float = 0.0
    unanswered_since: float = 0.0

    def needs_ping(self, now: float, timeout_s: float) -> bool:
        """Whether to request a heartbeat, since nothing has been heard or asked for a while."""
        return now - max(self.last_heard, self.last_pinged) >= timeout_s / HEARTBEATS_PER_TIMEOUT

    def pinged(self, now: float) -> None:
        # While the driver was busy elsewhere it sent no requests; that time does not count as silence.
        if self.last_pinged <= self.last_heard:
            self.unanswered_since = now
        self.last_pinged = now

    def is_silent(self, now: float, timeout_s: float) -> bool:
        """Whether it has left heartbeats unanswered for too long."""
        # The first request was sent a heartbeat's interval after the last answer.
        limit_s = timeout_s * (1.0 - 1.0 / HEARTBEATS_PER_TIMEOUT)
        return self.last_pinged > self.last_heard and now - self.unanswered_since > limit_s


@dataclass
class WorkerHandle:
    """One worker. All times are seconds of one monotonic clock.

    Attributes:
        index: Index of the worker, which its replacement takes over.
        ranks: Its processes, in the order of their ranks once they are placed.
        start_up: How far the start of several ranks is; None for one actor.
        placement: Ray's placement group of several ranks.
        state: Where it is in its life.
        state_since: When it entered this state.
        queue: Shards that it was asked for, in order; the first one is running.
        running_since: When the first one became the first.
        failures: Failures in a row, without a finished shard in between.
        backoff_until: When to start it again.
        leader: Index of the leader that hands shards to it; None if the driver does.
    """

    index: int
    ranks: list[RankHandle] = field(default_factory=list)
    start_up: StartUp | None = None
    placement: Any = None
    state: State = "backoff"
    state_since: float = 0.0
    queue: list[ShardKey] = field(default_factory=list)
    running_since: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    backoff_until: float = 0.0
    leader: int | None = None

    @property
    def actor(self) -> Any:
        """The actor that reports shards (rank 0); None if there is none."""
        return self.ranks[0].actor if self.ranks else None

    @property
    def reader(self) -> int:
        """This process's id, if it can read the memory of the actor that reports shards; else 0."""
        return os.getpid() if self.ranks and self.ranks[0].memory is not None else 0

    @property
    def is_active(self) -> bool:
        """Whether it computes shards."""
        return self.state in ("ready", "draining")

    @property
    def node_id(self) -> str:
        """Ray's id of the node where its results are; empty if it has none yet."""
        location = self.ranks[0].location if self.ranks else None
        return location.node_id if location else ""

    @property
    def node_ids(self) -> set[str]:
        """Ray's ids of all its nodes."""
        return {location.node_id for location in self._locations}

    @property
    def host(self) -> str:
        """Address of the node of its first rank; empty if it has none yet."""
        location = self.ranks[0].location if self.ranks else None
        return location.host if location else ""

    @property
    def node(self) -> str:
        """Addresses and ids of its nodes, for the user; empty if it has none yet."""
        nodes = dict.fromkeys(f"{location.host} ({location.node_id[:8]})" for location in self._locations)
        return ", ".join(nodes)

    def enter(self, state: State, now: float) -> None:
        self.state, self.state_since = state, now

    def created(self, actors: Sequence[Any], now: float, placement: Any = None) -> None:
        """Begin the life of new actors; several of them are ranks, which start phase by phase."""
        self.enter("pending", now)
        self.ranks, self.queue = [RankHandle(actor, last_heard=now, last_pinged=now) for actor in actors], []
        self.placement = placement
        self.start_up = StartUp(len(actors), now) if len(actors) > 1 else None

    def sort_ranks(self) -> None:
        """Number the ranks by node and device: neighbours are near each other, however Ray has placed them."""
        self.ranks.sort(key=lambda rank: _place(rank.location))

    def stopped(self) -> None:
        """Forget its actors; `node` still names where they were."""
        for rank in self.ranks:
            rank.actor = rank.memory = None
        self.queue, self.start_up, self.placement = [], None, None

    def enqueue(self, key: ShardKey, now: float) -> None:
        if not self.queue:
            self.running_since = now
        self.queue.append(key)

    def dequeue(self, key: ShardKey) -> None:
        """Remove a shard that rank 0 has answered."""
        self.queue.remove(key)
        self.running_since = self.ranks[0].last_heard

    def ranks_to_ping(self, now: float, timeout_s: float) -> list[RankHandle]:
        """Ranks to request a heartbeat of."""
        return [rank for rank in self.ranks if self._runs and rank.needs_ping(now, timeout_s)]

    def silent_ranks(self, now: float, timeout_s: float) -> list[RankHandle]:
        """Ranks that have left heartbeats unanswered for too long."""
        return [rank for rank in self.ranks if self._runs and rank.is_silent(now, timeout_s)]

    def is_overdue(self, now: float, timeout_s: float) -> bool:
        """Whether it has been at one shard for longer than `timeout_s`."""
        return bool(self.queue) and now - self.running_since > timeout_s

    def name_of(self, rank: RankHandle) -> str:
        """`rank 1: `, or nothing for a worker of one actor: the beginning of a message."""
        return f"rank {self.ranks.index(rank)}: " if len(self.ranks) > 1 else ""

    @property
    def _locations(self) -> list[Location]:
        return [rank.location for rank in self.ranks if rank.location]

    @property
    def _runs(self) -> bool:
        """Whether its processes are known to have started."""
        return self.state in ("starting", "ready", "draining")


def _place(location: Location | None) -> tuple[str, str, str, int]:
    assert location is not None, "ranks are numbered when all are placed"
    return location.host, location.node_id, location.gpus, location.pid
