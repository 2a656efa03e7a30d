"""Calls of actors' methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.worker_handle import RankHandle, WorkerHandle

CallKind = Literal["locate", "open_store", "join", "start", "heartbeat", "shard", "follow", "sum", "unit", "events"]
START_CALLS = frozenset({"locate", "open_store", "join", "start"})
"""Calls of the start of a worker, in their order; `follow` is a shard on the ranks other than the first."""


@dataclass(frozen=True)
class RemoteCall:
    """A call of an actor's method whose answer is expected, or has arrived.

    Attributes:
        worker: The worker that was called.
        rank: The rank of it whose actor was called.
        kind: What was called.
        ref: Ray's reference to the answer.
        key: The shard, or the first shard of the group to sum.
        grad: Ray's reference to the shard's gradient, if that is an object of its own.
        slot: The slot of a leader that was asked for a unit.
    """

    worker: WorkerHandle
    rank: RankHandle
    kind: CallKind
    ref: Any
    key: ShardKey | None = None
    grad: Any = None
    slot: int = -1

    @property
    def is_current(self) -> bool:
        """Whether the worker still has the actor that was called."""
        return self.rank.actor is not None
