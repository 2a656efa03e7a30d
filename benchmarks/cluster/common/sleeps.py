"""Shards that say how long to sleep. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from distmeta.core.work import Shard, TaskSpec


def make_shards(sleeps_s: Sequence[float], tasks: int = 1) -> tuple[Shard, ...]:
    """A shard of so many tasks for each sleep, in seconds."""
    return tuple(
        Shard(index, (TaskSpec(index, round(1e6 * seconds), "microseconds to sleep"),) * tasks)
        for index, seconds in enumerate(sleeps_s)
    )


def sleep_of(shard: Shard) -> float:
    """Seconds that a shard of `make_shards` sleeps."""
    return 1e-6 * shard.specs[0].seed
