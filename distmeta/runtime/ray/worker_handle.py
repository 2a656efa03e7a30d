"""What the driver knows of one worker: its state, its queue, when it was last heard. Knows no Ray and no clock.

pending (for resources) -> starting (builds its program) -> ready -> draining (its node is being drained)
   ^                                                          |
   +-- backoff (after failures, growing) <--------------------+         excluded: failed too often
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.estimates import ShardKey

if TYPE_CHECKING:
    from distmeta.runtime.ray.actor import Location

State = Literal["pending", "starting", "ready", "draining", "backoff", "excluded"]

HEARTBEATS_PER_TIMEOUT = 4
"""Heartbeats that are requested within `heartbeat_timeout_s`."""


@dataclass
class WorkerHandle:
    """One worker. All times are seconds of one monotonic clock.

    Attributes:
        index: Index of the worker, which its replacement takes over.
        actor: Handle of the Ray actor; None if there is none.
        state: Where it is in its life.
        state_since: When it entered this state.
        location: Node and process, once known.
        queue: Shards that it was asked for, in order; the first one is running.
        running_since: When the first one became the first.
        last_heard: Last answer of any kind.
        last_pinged: Last request for a heartbeat.
        unanswered_since: First request for a heartbeat since `last_heard`.
        failures: Failures in a row, without a finished shard in between.
        backoff_until: When to start it again.
    """

    index: int
    actor: Any = None
    state: State = "backoff"
    state_since: float = 0.0
    location: Location | None = None
    queue: list[ShardKey] = field(default_factory=list)
    running_since: float = 0.0
    last_heard: float = 0.0
    last_pinged: float = 0.0
    unanswered_since: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    backoff_until: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether it computes shards."""
        return self.state in ("ready", "draining")

    @property
    def node_id(self) -> str:
        """Ray's id of its node; empty if it has none yet."""
        return self.location.node_id if self.location else ""

    @property
    def node(self) -> str:
        """Address and id of its node, for the user; empty if it has none yet."""
        return f"{self.location.host} ({self.location.node_id[:8]})" if self.location else ""

    def enter(self, state: State, now: float) -> None:
        self.state, self.state_since = state, now

    def created(self, actor: Any, now: float) -> None:
        """Begin the life of a new actor."""
        self.enter("pending", now)
        self.actor, self.location, self.queue = actor, None, []
        self.last_heard = self.last_pinged = now

    def stopped(self) -> None:
        self.actor, self.queue = None, []

    def enqueue(self, key: ShardKey, now: float) -> None:
        if not self.queue:
            self.running_since = now
        self.queue.append(key)

    def dequeue(self, key: ShardKey) -> None:
        """Remove a shard that was answered at `last_heard`."""
        self.queue.remove(key)
        self.running_since = self.last_heard

    def needs_ping(self, now: float, timeout_s: float) -> bool:
        """Whether to request a heartbeat, since nothing has been heard or asked for a while."""
        interval_s = timeout_s / HEARTBEATS_PER_TIMEOUT
        return self._runs and now - max(self.last_heard, self.last_pinged) >= interval_s

    def pinged(self, now: float) -> None:
        # While the driver was busy elsewhere it sent no requests; that time does not count as silence.
        if self.last_pinged <= self.last_heard:
            self.unanswered_since = now
        self.last_pinged = now

    def is_silent(self, now: float, timeout_s: float) -> bool:
        """Whether it has left heartbeats unanswered for too long."""
        unanswered = self._runs and self.last_pinged > self.last_heard
        # The first request was sent a heartbeat's interval after the last answer.
        return unanswered and now - self.unanswered_since > timeout_s * (1.0 - 1.0 / HEARTBEATS_PER_TIMEOUT)

    def is_overdue(self, now: float, timeout_s: float) -> bool:
        """Whether it has been at one shard for longer than `timeout_s`."""
        return bool(self.queue) and now - self.running_since > timeout_s

    @property
    def _runs(self) -> bool:
        """Whether its process is known to have started."""
        return self.state in ("starting", "ready", "draining")
