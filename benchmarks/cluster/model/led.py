"""The simulation with leaders between driver and workers (`runtime.leaders`): two levels of the same schedule.

    driver    begin -> assign units -> [wait -> units that have come: fetch, decode, add -> assign] ... -> outer step
    leader    [wait -> units: assign their shards; reports: fetch, decode, add -> assign; a whole unit: write it] ...

Leaders are spread over the machines. What a leader does costs what it would cost the driver. A large snapshot goes from
machine to machine, and groups of units with large sums are added by leaders, as in a run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from benchmarks.cluster.model.events import Action
from benchmarks.cluster.model.processes import Body, Process
from benchmarks.cluster.model.simulation import Call, Reply, SimulatedWorker, Simulation, make_shard, make_shards
from distmeta.core.types import Work
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.leaders import (
    Followers,
    Relays,
    as_shard,
    choose_leader,
    leader_of,
    slots_of,
    units_of,
    weight_of,
)
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.server.tree import FAN_IN


@dataclass(frozen=True)
class _Unit:
    """A request to a leader: shards, and the seconds that each computes."""

    key: ShardKey
    slot: int
    seconds: dict[int, float]


@dataclass(frozen=True)
class _Sum:
    """A leader's answer; `size` bytes of it go to the driver."""

    key: ShardKey
    slot: int
    leader: int
    size: float


@dataclass(frozen=True)
class _Add:
    """A request to a leader: add the sums of so many units, some of them from other machines."""

    units: int
    remote: int


@dataclass(frozen=True)
class _Total:
    """The sum of so many units."""

    units: int


@dataclass
class _Leader:
    """A leader: its schedule; requests for each unit, the first one first; how many reports are missing of it."""

    index: int
    process: Process[Any]
    schedule: Schedule
    call_id: int = 0
    units: dict[int, list[_Unit]] = field(default_factory=dict)
    missing: dict[int, int] = field(default_factory=dict)
    unit_of: dict[int, int] = field(default_factory=dict)


class LedSimulation(Simulation):
    """Outer steps of a run with leaders, which are given workers as those of a run."""

    @override
    def _make_schedule(self, speculate: bool) -> Schedule:
        return Schedule(speculate=speculate, leads=True)

    @override
    def _make_workers(self, speculate: bool) -> list[SimulatedWorker]:
        workers: list[SimulatedWorker] = []
        self._leaders: list[_Leader] = []
        num_workers, num_leaders = self.machines.workers, self.machines.leaders
        firsts = [index * num_workers // num_leaders for index in range(num_leaders)]
        followers = {index: Followers(str(self._machine_of(first)), 0) for index, first in enumerate(firsts)}
        for index, first in enumerate(firsts):
            schedule = Schedule(speculate=speculate)
            self._leaders.append(_Leader(index, self._process(self._machine_of(first), schedule), schedule))
        for index in range(self.machines.workers):
            machine = self._machine_of(index)
            chosen = choose_leader(str(machine), followers, num_workers)
            assert chosen is not None
            followers[chosen] = Followers(followers[chosen].node, followers[chosen].num_workers + 1)
            self._leaders[chosen].schedule.add_worker(index, str(machine))
            workers.append(SimulatedWorker(index, machine, self._leaders[chosen].process))
        for leader, of_leader in followers.items():
            for slot in slots_of(leader, of_leader.num_workers):
                self._schedule.add_worker(slot, str(leader), weight_of(of_leader.num_workers))
        return workers

    @override
    def _start(self) -> None:
        for leader in self._leaders:
            leader.process.run(self._lead(leader))

    @override
    def _adds_near_workers(self) -> bool:
        return False  # leaders add

    @override
    def _drive(self, seconds: Sequence[float]) -> Body:
        costs, units = self.costs, units_of(make_shards(len(seconds)))
        self._draw, self._relays, self._sources = random.Random(0), Relays("0"), dict[int, int | None]()
        self._whole = sum(len(members) == FAN_IN for members in units.values())
        self._waiting: dict[int, list[int]] = {}
        self._adding = [0] * len(self._leaders)
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.start(Work("update"), [as_shard(unit, shards) for unit, shards in units.items()])
        call_id, missing = self._schedule.call_id, len(units)
        while missing:
            for assignment in self._schedule.assign(self._events.now):
                yield costs.assign_s
                number, slot = assignment.shard.index, assignment.worker
                unit = _Unit((call_id, number), slot, {shard.index: seconds[shard.index] for shard in units[number]})
                self._ask(self._leaders[leader_of(slot)], unit)
            yield None
            for answer in self._driver.take():
                if isinstance(answer, _Total):
                    yield costs.report_s + costs.report_byte_s * self.payload
                    missing -= answer.units
                    continue
                yield costs.report_s + costs.report_byte_s * answer.size
                first, _ = self._schedule.finished(answer.slot, answer.key, self._events.now)
                if not first:
                    continue
                if self._is_kept(answer.key[1]):
                    yield from self._hold_sum(answer)
                else:
                    missing -= 1
        yield costs.outer_s + costs.outer_byte_s * self.payload

    def _ask(self, leader: _Leader, unit: _Unit) -> None:
        """Ask a leader for a unit, which begins with it when the snapshot may be fetched."""
        if leader.index not in self._sources and self._is_large:
            self._sources[leader.index] = self._relays.source(leader.index, str(leader.process.machine))
        self._relayed(leader, lambda: self._deliver(unit, 0.0, 0, leader.process))

    def _relayed(self, leader: _Leader, then: Action) -> None:
        source = self._sources.get(leader.index)
        if source is None:
            then()
            return
        sender = self._leaders[source]
        self._relayed(sender, lambda: self._with_snapshot(sender.process.machine, then))

    @override
    def _sender(self) -> int:
        """Any machine that has the snapshot: Ray takes one at random."""
        return self._draw.choice(sorted(self._has_snapshot))

    @property
    def _is_large(self) -> bool:
        return self.machines.count > 1 and self.payload >= LARGE_UPDATE_BYTES

    def _is_kept(self, unit: int) -> bool:
        """Whether the sum of a unit waits for others of its group."""
        return self._is_large and unit < self._whole and self._group_size(unit // FAN_IN) > 1

    def _group_size(self, group: int) -> int:
        """Whole units of a group."""
        return min(FAN_IN, self._whole - group * FAN_IN)

    def _hold_sum(self, answer: _Sum) -> Body:
        """Keep a unit's sum for its group; have a leader add the group when it is complete."""
        group = answer.key[1] // FAN_IN
        waiting = self._waiting.setdefault(group, [])
        waiting.append(self._leaders[answer.leader].process.machine)
        if len(waiting) < self._group_size(group):
            return
        yield self.costs.assign_s
        by_cost = min(
            self._leaders,
            key=lambda leader: (-waiting.count(leader.process.machine), self._adding[leader.index], leader.index),
        )
        self._adding[by_cost.index] += 1
        remote = len(waiting) - waiting.count(by_cost.process.machine)
        self._deliver(_Add(len(waiting), remote), 0.0, 0, by_cost.process)

    def _add_sums(self, leader: _Leader, request: _Add) -> None:
        """Fetch sums of other machines and add all, on a core beside the leader's."""
        machine = leader.process.machine

        def added() -> None:
            self._deliver(_Total(request.units), self.payload, machine, self._driver)

        def add() -> None:
            needed = self.costs.shard_byte_s + self.costs.add_byte_s * request.units
            self._cores[machine].use(needed * self.payload, added)

        if request.remote and self.machines.link_bytes_s is not None:
            self._inbound[machine].use(request.remote * self.payload / self.machines.link_bytes_s, add)
        else:
            add()

    def _lead(self, leader: _Leader) -> Body:
        costs = self.costs
        while True:
            for assignment in leader.schedule.assign(self._events.now):
                yield costs.assign_s
                index = assignment.shard.index
                seconds = leader.units[leader.unit_of[index]][0].seconds[index]
                self._send(self._workers[assignment.worker], Call((leader.call_id, index), seconds))
            yield None
            for message in leader.process.take():
                if isinstance(message, _Unit):
                    yield costs.assign_s
                    self._take_unit(leader, message)
                    continue
                if isinstance(message, _Add):
                    self._add_sums(leader, message)
                    continue
                yield costs.report_s + costs.report_byte_s * message.size
                for unit in self._take_report(leader, message):
                    yield costs.shard_s + costs.shard_byte_s * self.payload
                    size = 0.0 if self._is_kept(unit.key[1]) else self.payload
                    answer = _Sum(unit.key, unit.slot, leader.index, size)
                    self._deliver(answer, size, leader.process.machine, self._driver)

    def _take_unit(self, leader: _Leader, unit: _Unit) -> None:
        if unit.key[0] > leader.call_id:
            leader.call_id = unit.key[0]
            leader.schedule.start(Work("update"), (), call_id=leader.call_id)
            leader.units.clear()
            leader.unit_of.clear()
            leader.missing.clear()
        number = unit.key[1]
        if leader.missing.get(number):
            leader.units[number].append(unit)  # another of its slots has it: both get the answer
            return
        leader.units[number], leader.missing[number] = [unit], len(unit.seconds)
        for index in unit.seconds:
            leader.unit_of[index] = number
            leader.schedule.add_shard(make_shard(index))

    def _take_report(self, leader: _Leader, reply: Reply) -> list[_Unit]:
        """Count a report. Returns the requests that it completes."""
        key, now = reply.call.key, self._events.now
        first, others = leader.schedule.finished(reply.worker.index, key, now, computed=reply.computed)
        for other in others:
            self._workers[other].forgotten.add(key)
        if not first or key[0] != leader.call_id:
            return []
        number = leader.unit_of[key[1]]
        leader.missing[number] -= 1
        return [] if leader.missing[number] else leader.units[number]
