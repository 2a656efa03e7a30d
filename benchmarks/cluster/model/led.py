"""The simulation with leaders between driver and workers (`runtime.leaders`): two levels of the same schedule.

    driver    begin -> assign units -> [wait -> units that have come: fetch, decode, add -> assign] ... -> outer step
    leader    [wait -> units: assign their shards; reports: fetch, decode, add -> assign; a whole unit: write it] ...

Leaders are spread over the machines. What a leader does costs what it would cost the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from benchmarks.cluster.model.processes import Body, Process
from benchmarks.cluster.model.simulation import Call, Reply, SimulatedWorker, Simulation, make_shard, make_shards
from distmeta.core.types import Work
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.leaders import Followers, as_shard, choose_leader, leader_of, slots_of, units_of, weight_of
from distmeta.runtime.policy.schedule import Schedule


@dataclass(frozen=True)
class _Unit:
    """A request to a leader: shards, and the seconds that each computes."""

    key: ShardKey
    slot: int
    seconds: dict[int, float]


@dataclass(frozen=True)
class _Sum:
    """A leader's answer."""

    key: ShardKey
    slot: int


@dataclass
class _Leader:
    """A leader: its schedule; requests for each unit, the first one first; how many reports are missing of it."""

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
        for first in firsts:
            schedule = Schedule(speculate=speculate)
            self._leaders.append(_Leader(self._process(self._machine_of(first), schedule), schedule))
        for index in range(self.machines.workers):
            machine = self._machine_of(index)
            chosen = choose_leader(str(machine), followers)
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
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.start(Work("update"), [as_shard(unit, shards) for unit, shards in units.items()])
        call_id, missing = self._schedule.call_id, len(units)
        while missing:
            for assignment in self._schedule.assign(self._events.now):
                yield costs.assign_s
                number, slot = assignment.shard.index, assignment.worker
                unit = _Unit((call_id, number), slot, {shard.index: seconds[shard.index] for shard in units[number]})
                self._deliver(unit, 0.0, 0, self._leaders[leader_of(slot)].process)
            yield None
            for answer in self._driver.take():
                yield costs.report_s + costs.report_byte_s * self.payload
                first, _ = self._schedule.finished(answer.slot, answer.key, self._events.now)
                missing -= first
        yield costs.outer_s + costs.outer_byte_s * self.payload

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
                yield costs.report_s + costs.report_byte_s * message.size
                for unit in self._take_report(leader, message):
                    yield costs.shard_s + costs.shard_byte_s * self.payload
                    self._deliver(_Sum(unit.key, unit.slot), self.payload, leader.process.machine, self._driver)

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
