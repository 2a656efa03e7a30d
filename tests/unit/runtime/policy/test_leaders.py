"""Who leads whom, and both levels of the schedule together, as arithmetic."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from distmeta.core.work import Shard, TaskSpec, Work
from distmeta.runtime.policy.leaders import (
    MAX_SLOTS,
    Followers,
    Relays,
    as_shard,
    choose_leader,
    leader_of,
    next_move,
    num_leaders,
    single_unit,
    slots_of,
    units_of,
    weight_of,
)
from distmeta.runtime.policy.schedule import LEAD_PATIENCE, Schedule
from distmeta.server.tree import FAN_IN

UPDATE = Work("update")


def make_shards(count: int) -> list[Shard]:
    return [Shard(index, (TaskSpec(index, index, "train"),)) for index in range(count)]


def test_large_updates_have_a_leader_on_each_host_with_enough_workers() -> None:
    assert num_leaders("auto", 1000, 125) == 32
    assert num_leaders("auto", 1000, 125, large=True) == 125
    assert num_leaders("auto", 1000, 1000, large=True) == 125
    assert num_leaders("auto", 1000, 4, large=True) == 32
    assert (num_leaders("auto", 63, 8, large=True), num_leaders(3, 1000, 125, large=True)) == (0, 3)


def test_nodes_send_a_snapshot_on_and_none_to_more_than_two() -> None:
    relays = Relays("home")
    sources = {leader: relays.source(leader, f"node{leader}") for leader in range(125)}
    assert [sources[leader] for leader in range(7)] == [None, None, 0, 0, 1, 1, 2]
    assert max(Counter(sources.values()).values()) == 2
    depth = {leader: 0 for leader in range(2)}
    for leader in range(2, 125):
        source = sources[leader]
        assert source is not None
        depth[leader] = depth[source] + 1
    assert max(depth.values()) == 5


def test_only_the_first_leader_of_a_node_waits_for_another_node() -> None:
    relays = Relays("home")
    assert [relays.source(leader, node) for leader, node in enumerate(["home", "a", "b", "c", "a", "c"])] == [
        *(None, None, None, 1),
        *(1, 3),
    ]
    assert relays.source(3, "c") is None  # its next unit: it waits already


@pytest.mark.parametrize(
    ("setting", "workers", "leaders"),
    [("auto", 1, 0), ("auto", 63, 0), ("auto", 64, 2), ("auto", 65, 3), ("auto", 1000, 32), (0, 1000, 0), (3, 4, 3)],
)
def test_few_workers_have_no_leaders_unless_asked(setting: int, workers: int, leaders: int) -> None:
    assert num_leaders(setting, workers) == leaders  # type: ignore[arg-type]


def test_a_worker_goes_to_the_leader_on_its_node_unless_that_has_more_than_its_share() -> None:
    leaders = {0: Followers("a", 3), 1: Followers("b", 1)}
    assert choose_leader("b", leaders) == 1
    assert choose_leader("c", leaders) == 1
    assert choose_leader("a", leaders) == 1
    assert choose_leader("a", {0: Followers("a", 2), 1: Followers("b", 2)}) == 0
    assert choose_leader("a", {}) is None


def test_workers_are_moved_until_no_leader_has_two_more_than_another() -> None:
    sizes = {0: 5, 1: 0, 2: 4}
    for _ in range(3):
        move = next_move({index: Followers("", size) for index, size in sizes.items()})
        assert move is not None
        sizes[move[0]] -= 1
        sizes[move[1]] += 1
    assert sorted(sizes.values()) == [3, 3, 3]
    assert next_move({index: Followers("", size) for index, size in sizes.items()}) is None
    assert next_move({}) is None


def test_workers_that_come_node_by_node_stay_there() -> None:
    leaders = {index: Followers(f"node {index}", 0) for index in range(4)}
    for worker in range(32):
        chosen = choose_leader(f"node {worker // 8}", leaders, 32)
        assert chosen == worker // 8
        leaders[chosen] = Followers(leaders[chosen].node, leaders[chosen].num_workers + 1)
    assert choose_leader("node 0", leaders, 32) == 0


def test_leaders_of_many_workers_get_whole_groups_of_them() -> None:
    leaders: dict[int, Followers] = {index: Followers(f"node {index}", 0) for index in range(3)}
    for worker in range(72):
        chosen = choose_leader("another node", leaders)
        assert chosen is not None
        leaders[chosen] = Followers(leaders[chosen].node, leaders[chosen].num_workers + 1)
        assert next_move(leaders) is None
        if worker == 29:
            assert [leader.num_workers for leader in leaders.values()] == [10, 10, 10]
    assert [leader.num_workers for leader in leaders.values()] == [32, 24, 16]
    leaders[2] = Followers("", 15)  # one has died
    assert next_move(leaders) == (0, 2)
    assert choose_leader("another node", leaders) == 2


def test_slots_own_units_by_the_workers_behind_them() -> None:
    schedule = Schedule(leads=True)
    for slot, weight in ((0, 16.0), (1, 8.0), (2, 16.0)):
        schedule.add_worker(slot, str(slot), weight)
    schedule.start(UPDATE, make_shards(10))
    owners = [schedule._call.pending.owner(index) for index in range(10)]
    assert Counter(owners) == {0: 4, 1: 2, 2: 4}
    assert {0, 1, 2} == set(owners[:4])  # from the beginning
    schedule.weigh(1, 16.0)
    assert [schedule._call.pending.owner(index) for index in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_unit_is_copied_when_its_leader_hangs_and_not_before() -> None:
    schedule = Schedule(leads=True)
    for slot in (0, 1024):
        schedule.add_worker(slot, str(slot))
    for start in (0.0, 10.0):
        schedule.start(UPDATE, make_shards(4))
        assert len(schedule.assign(start)) == 4
        for index, slot in enumerate((0, 1024, 0, 1024)):
            schedule.finished(slot, (schedule.call_id, index), start + 1.0 + index // 2)
    schedule.start(UPDATE, make_shards(2))
    schedule.assign(20.0)
    schedule.finished(0, (schedule.call_id, 0), 21.0)
    assert schedule.assign(22.0) == []  # a shard of a worker would have a copy by now
    assert schedule.next_check_at(22.0) == pytest.approx(20.0 + LEAD_PATIENCE * 1.5)
    assert [assignment.shard.index for assignment in schedule.assign(23.1)] == [1]


def test_a_leader_has_a_slot_for_each_group_that_its_workers_compute_at_a_time() -> None:
    assert [len(slots_of(0, workers)) for workers in (0, 1, 15, 16, 17, 31, 32, 40)] == [0, 1, 1, 1, 2, 2, 2, 3]
    assert [weight_of(workers) for workers in (0, 15, 16, 24, 32)] == [0.0, 15.0, 16.0, 12.0, 16.0]
    assert len(slots_of(3, 10**6)) == MAX_SLOTS
    assert {leader_of(slot) for slot in slots_of(3, 64)} == {3}


def test_units_are_the_groups_of_the_servers_sum() -> None:
    shards = make_shards(2 * FAN_IN + 3)
    units = units_of(shards)
    assert {unit: len(members) for unit, members in units.items()} == {0: FAN_IN, 1: FAN_IN, 2: 3}
    whole = as_shard(2, units[2])
    assert (whole.index, [spec.index for spec in whole.specs]) == (2, [2 * FAN_IN, 2 * FAN_IN + 1, 2 * FAN_IN + 2])
    assert {single_unit(shard.index) for shard in shards}.isdisjoint(units)


@dataclass
class Leader:
    """A leader and its workers in simulated time."""

    schedule: Schedule
    free_at: dict[int, float] = field(default_factory=dict)
    missing: dict[int, set[int]] = field(default_factory=dict)


@dataclass
class TwoLevels:
    """A driver, leaders and workers in simulated time; a shard takes a second. Leaders may be lost on the way."""

    num_leaders: int
    num_workers: int
    draw: random.Random
    now: float = 0.0
    slow: int = -1

    def __post_init__(self) -> None:
        self.driver = Schedule(leads=True)
        self.waiting: dict[tuple[int, int], int] = {}
        self.leaders: dict[int, Leader] = {}
        self.events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self.count = 0
        for index in range(self.num_leaders):
            self.add(index)

    def add(self, index: int) -> None:
        leader = self.leaders[index] = Leader(Schedule())
        workers = range(index, self.num_workers, self.num_leaders)
        for worker in workers:
            leader.schedule.add_worker(worker)
        for slot in slots_of(index, len(workers)):
            self.driver.add_worker(slot, str(index))

    def lose(self, index: int) -> None:
        for slot in [slot for slot in self.driver.all_workers if leader_of(slot) == index]:
            self.driver.remove_worker(slot)
        del self.leaders[index]

    def step(self, shards: list[Shard], losses: int = 0) -> list[int]:
        """Compute all shards. Returns the units in the order in which they were first reported."""
        units, reported = units_of(shards), list[int]()
        self.driver.start(UPDATE, [as_shard(unit, members) for unit, members in units.items()])
        for leader in self.leaders.values():
            leader.schedule.start(UPDATE, (), call_id=self.driver.call_id)
            leader.missing.clear()
        for (_, unit), slot in self.waiting.items():  # given back: copies that nobody waits for any more
            self.driver.finished(slot, (self.driver.call_id - 1, unit), self.now, computed=False)
        self.waiting.clear()
        while len(reported) < len(units):
            for assignment in self.driver.assign(self.now):
                self.ask(leader_of(assignment.worker), assignment.worker, units[assignment.shard.index])
            self.now, _, kind, what = heapq.heappop(self.events)
            if kind == "shard" and what[0] in self.leaders:
                self.shard_done(*what)
            elif kind == "unit" and what[1] == self.driver.call_id:
                slot, _, unit = what
                first, _ = self.driver.finished(slot, (self.driver.call_id, unit), self.now)
                reported += [unit] if first else []
            if losses and self.draw.random() < 0.02 and len(self.leaders) > 1:
                losses -= 1
                lost = self.draw.choice(sorted(self.leaders))
                self.lose(lost)
                if self.draw.random() < 0.5:
                    self.add(lost)
                    self.leaders[lost].schedule.start(UPDATE, (), call_id=self.driver.call_id)
        return reported

    def ask(self, index: int, slot: int, members: list[Shard]) -> None:
        leader = self.leaders[index]
        if members[0].index // FAN_IN not in leader.missing:
            leader.missing[members[0].index // FAN_IN] = {shard.index for shard in members}
            for shard in members:
                leader.schedule.add_shard(shard)
        self.waiting[index, members[0].index // FAN_IN] = slot
        self.pump(index)

    def pump(self, index: int) -> None:
        leader = self.leaders[index]
        for assignment in leader.schedule.assign(self.now):
            seconds = 4.0 if assignment.worker == self.slow else 1.0
            end = max(self.now, leader.free_at.get(assignment.worker, 0.0)) + seconds
            leader.free_at[assignment.worker] = end
            self.at(end, "shard", (index, assignment.worker, leader.schedule.call_id, assignment.shard.index))

    def shard_done(self, index: int, worker: int, call_id: int, shard: int) -> None:
        leader = self.leaders[index]
        first, _ = leader.schedule.finished(worker, (call_id, shard), self.now)
        missing = leader.missing.get(shard // FAN_IN)
        if first and missing is not None:
            missing.discard(shard)
            if not missing:
                self.at(self.now, "unit", (self.waiting[index, shard // FAN_IN], call_id, shard // FAN_IN))
        self.pump(index)

    def at(self, when: float, kind: str, what: tuple[int, ...]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, kind, what))


@pytest.mark.parametrize(("leaders", "workers", "shards"), [(1, 16, 64), (2, 64, 256), (4, 128, 128), (4, 128, 512)])
def test_workers_under_leaders_finish_when_they_would_without(leaders: int, workers: int, shards: int) -> None:
    levels = TwoLevels(leaders, workers, random.Random(0))
    for step in range(3):
        assert sorted(levels.step(make_shards(shards))) == list(range(shards // FAN_IN))
        assert levels.now == (step + 1) * shards / workers


def test_a_slow_worker_is_helped_by_the_others_of_its_leader() -> None:
    levels = TwoLevels(2, 32, random.Random(0), slow=0)
    for _ in range(3):
        levels.step(make_shards(256))
    started = levels.now
    levels.step(make_shards(256))
    assert levels.now - started <= 256 / 30 + 2.0  # a fair share of it all would take 4 * 256 / 32 seconds


@pytest.mark.parametrize("seed", range(20))
def test_all_units_are_reported_once_whatever_leaders_are_lost(seed: int) -> None:
    levels = TwoLevels(4, 64, random.Random(seed))
    for _ in range(4):
        assert sorted(levels.step(make_shards(150), losses=2)) == list(range(10))
        for index in range(4):
            if index not in levels.leaders:
                levels.add(index)
