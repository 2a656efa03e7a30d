"""Which workers a leader has, and which shards it is given together. Pure functions.

A leader is an actor that hands units of shards to its own workers and reports a unit at once. A unit is a group of the
server's sum (`distmeta.server.tree`), so that a leader's sum has the bits of the server's. To the driver a leader
is several slots, as many as units that its workers compute at a time, and units are assigned to slots as shards are to
workers (`distmeta.runtime.policy.schedule`): the driver and each leader have a schedule of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distmeta.core.work import Shard
from distmeta.server.tree import FAN_IN

WORKERS_PER_LEADER = 32
MIN_WORKERS = 64
"""Number of workers from which `runtime.leaders=auto` has leaders: below it the driver has time for every report."""
MAX_SLOTS = 1 << 10
"""Slots of a leader at most; those of leader l are numbered from l * MAX_SLOTS on."""


@dataclass(frozen=True)
class Followers:
    """A leader's node and the number of its workers."""

    node: str
    num_workers: int


def num_leaders(setting: int | Literal["auto"], workers: int) -> int:
    """Number of leaders of a run with so many workers (`runtime.leaders`); 0 for none."""
    if setting == "auto":
        return -(-workers // WORKERS_PER_LEADER) if workers >= MIN_WORKERS else 0
    return setting


def choose_leader(node: str, leaders: Mapping[int, Followers]) -> int | None:
    """The leader of a new worker: one on its node, unless that has more than its share; else the one with the fewest.

    Args:
        node: Node of the worker.
        leaders: Leaders that are ready, by index.
    """
    if not leaders:
        return None
    share = -(-(1 + sum(leader.num_workers for leader in leaders.values())) // len(leaders))
    near = [index for index, leader in leaders.items() if leader.node == node and leader.num_workers < share]
    return min(near or leaders, key=lambda index: (leaders[index].num_workers, index))


def next_move(leaders: Mapping[int, Followers]) -> tuple[int, int] | None:
    """From which leader to which one to move a worker, so that none has two more than another; None if none has."""
    if not leaders:
        return None
    by_size = sorted(leaders, key=lambda index: (leaders[index].num_workers, index))
    fewest, most = by_size[0], by_size[-1]
    return (most, fewest) if leaders[most].num_workers - leaders[fewest].num_workers >= 2 else None


def slots_of(leader: int, num_workers: int) -> range:
    """The slots of a leader with so many workers: one for each FAN_IN of them, since a unit has FAN_IN shards."""
    count = min(MAX_SLOTS, max(1, num_workers // FAN_IN)) if num_workers else 0
    return range(leader * MAX_SLOTS, leader * MAX_SLOTS + count)


def leader_of(slot: int) -> int:
    return slot // MAX_SLOTS


def units_of(shards: Sequence[Shard]) -> dict[int, list[Shard]]:
    """Divide shards into units, by number."""
    units: dict[int, list[Shard]] = {}
    for shard in shards:
        units.setdefault(shard.index // FAN_IN, []).append(shard)
    return units


def single_unit(shard: int) -> int:
    """Number of the unit of one shard that is computed again by itself."""
    return -1 - shard


def as_shard(unit: int, shards: Sequence[Shard]) -> Shard:
    """A unit as what a schedule assigns."""
    return Shard(unit, tuple(spec for shard in shards for spec in shard.specs))
