"""State of one call of the executor."""

from __future__ import annotations

from dataclasses import dataclass, field

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.executor import Feed
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.aggregation import Aggregator


@dataclass
class CallState:
    """State of one call of `map` or `stream`.

    Attributes:
        call_id: Number of the call.
        work: What is computed.
        shards: Shards by index, each with the snapshot to compute it from.
        num_missing: Shards that have not been reported.
        feed: Where further shards come from.
        failures: Failures of each shard.
        aggregator: Sums reports near their workers; None if each is fetched by itself.
    """

    call_id: int
    work: Work
    shards: dict[int, tuple[Shard, Snapshot]] = field(default_factory=dict)
    num_missing: int = 0
    feed: Feed | None = None
    failures: dict[int, list[Failure]] = field(default_factory=dict)
    aggregator: Aggregator | None = None

    def contains(self, key: ShardKey) -> bool:
        """Whether a shard belongs to this call and not to an earlier one."""
        return key[0] == self.call_id
