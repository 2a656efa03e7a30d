"""One call of an executor, as far as its work has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.executor import Feed
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.ray.groups import Groups


@dataclass
class Job:
    """One call of `map` or `stream`.

    Attributes:
        epoch: Its number.
        work: What is computed.
        shards: By index, each with what it is computed from.
        missing: Shards whose report has not been passed on.
        feed: Where further shards come from.
        failures: Of each shard.
        groups: Set where reports are added near their workers before they come here.
        version: Of the snapshot.
    """

    epoch: int
    work: Work
    shards: dict[int, tuple[Shard, Snapshot]]
    missing: int
    feed: Feed | None = None
    failures: dict[int, list[Failure]] = field(default_factory=dict)
    groups: Groups | None = None
    version: int = -1
