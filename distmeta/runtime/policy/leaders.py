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
MIN_FOLLOWERS = FAN_IN // 2
"""Workers of a leader at least, where each host has a leader: a unit would keep fewer busy for many rounds."""
RELAY_FAN_OUT = 2
"""Nodes that get a snapshot from the driver's node, and from each that has it."""
MAX_SLOTS = 1 << 10
"""Slots of a leader at most; those of leader l are numbered from l * MAX_SLOTS on."""


@dataclass(frozen=True)
class Followers:
    """A leader's node and the number of its workers."""

    node: str
    num_workers: int


class Relays:
    """From which leader's node each leader's node gets one snapshot.

    The nodes are a tree under the driver's, in the order in which leaders are first asked: one link cannot send a large
    snapshot to many nodes at once, and nodes that have it can send it on.

    Args:
        home: The driver's node.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._carriers: dict[str, int] = {}

    def source(self, leader: int, node: str) -> int | None:
        """The leader that must have the snapshot before this one fetches it; None for the driver's node, or itself."""
        if node == self._home:
            return None
        if node in self._carriers:
            return None if self._carriers[node] == leader else self._carriers[node]
        place, carriers = len(self._carriers), list(self._carriers.values())
        self._carriers[node] = leader
        return None if place < RELAY_FAN_OUT else carriers[place // RELAY_FAN_OUT - 1]


def num_leaders(setting: int | Literal["auto"], workers: int, hosts: int = 1, *, large: bool = False) -> int:
    """Number of leaders of a run with so many workers (`runtime.leaders`); 0 for none.

    Args:
        setting: `auto`, or the number.
        workers: Of the run.
        hosts: Of the cluster.
        large: Updates are large: each host then has a leader, so that they do not travel before they are added.
    """
    if setting != "auto":
        return setting
    if workers < MIN_WORKERS:
        return 0
    by_host = min(hosts, workers // MIN_FOLLOWERS) if large else 0
    return max(by_host, -(-workers // WORKERS_PER_LEADER))


def choose_leader(node: str, leaders: Mapping[int, Followers], expected: int = 0) -> int | None:
    """The leader of a new worker: one on its node, unless that has more than its share; else the neediest.

    Args:
        node: Node of the worker.
        leaders: Leaders that are ready, by index.
        expected: Workers that leaders have, or will have soon.
    """
    if not leaders:
        return None
    total = max(expected, 1 + sum(leader.num_workers for leader in leaders.values()))
    share = -(-total // len(leaders))
    near = [index for index, leader in leaders.items() if leader.node == node and leader.num_workers < share]
    return min(near or leaders, key=lambda index: _need(leaders, index))


def _need(leaders: Mapping[int, Followers], index: int) -> tuple[bool, int, int]:
    """Sorts those first that need a worker most: those with the fewest, but a group that is begun is completed.

    A unit has FAN_IN shards: 31 workers with four shards each take eight units and need five rounds for them, or take
    seven and wait.
    """
    complete = all(leader.num_workers >= FAN_IN for leader in leaders.values())
    count = leaders[index].num_workers
    return complete and count % FAN_IN == 0, count, index


def next_move(leaders: Mapping[int, Followers]) -> tuple[int, int] | None:
    """From which leader to which one to move a worker, so that none has many more than another; None if none has.

    As long as one has fewer than FAN_IN workers, two more are too many, else FAN_IN + 1.
    """
    if not leaders:
        return None
    by_size = sorted(leaders, key=lambda index: (leaders[index].num_workers, index))
    fewest, most = (leaders[index].num_workers for index in (by_size[0], by_size[-1]))
    allowed = 1 if fewest < FAN_IN else FAN_IN
    return (by_size[-1], by_size[0]) if most - fewest > allowed else None


def slots_of(leader: int, num_workers: int) -> range:
    """The slots of a leader with so many workers: one for each FAN_IN of them, since a unit has FAN_IN shards.

    Rounded up: with a slot too few, some workers would wait for the next unit to be sent.
    """
    count = min(MAX_SLOTS, -(-num_workers // FAN_IN))
    return range(leader * MAX_SLOTS, leader * MAX_SLOTS + count)


def weight_of(num_workers: int) -> float:
    """Workers behind each slot of a leader with so many: its slots own so large a part of the units."""
    return num_workers / max(1, len(slots_of(0, num_workers)))


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
