"""A discrete-event simulation of synchronous training: a driver, workers on machines, the bytes between them.

The driver does one thing at a time, in the order of the real one, and asks the real scheduler:

    begin (pull, put) -> assign -> [wait -> every report that has come: fetch, add -> assign] ... -> outer step

k users at once of a machine's C cores run at min(1, C / k) of their speed. A worker sleeps or computes, then checks and
writes its update; reports from other machines share the driver's link. Where there are several machines and updates are
large, groups of FAN_IN are added on their machines first, as the real workers do.

Times are seconds, sizes bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.events import Action, EventQueue, SharedResource
from benchmarks.cluster.model.processes import Body, Process
from distmeta.core.types import Shard, TaskSpec, Work
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.server.tree import FAN_IN


@dataclass(frozen=True)
class Call:
    """A call of a worker: compute a shard, or add a group of `adds` reports (`key` is that of its first shard)."""

    key: ShardKey
    compute_s: float = 0.0
    adds: int = 0
    remote: int = 0


@dataclass
class SimulatedWorker:
    """A worker: its calls in order, and the shards that it need not compute any more."""

    index: int
    machine: int
    reports_to: Process[Any]
    calls: deque[Call] = field(default_factory=deque)
    forgotten: set[ShardKey] = field(default_factory=set)
    busy: bool = False


@dataclass(frozen=True)
class Reply:
    """The reply to a call: `size` bytes of it go to who has asked; `computed` is False for a forgotten shard."""

    worker: SimulatedWorker
    call: Call
    size: float
    computed: bool


def make_shard(index: int) -> Shard:
    """A shard of one task."""
    return Shard(index, (TaskSpec(index, 0, "model"),))


def make_shards(count: int) -> list[Shard]:
    return [make_shard(index) for index in range(count)]


class Simulation:
    """Outer steps of a run.

    Args:
        costs: Costs of the parts of a step.
        machines: Workers, cores and links.
        payload: Bytes of an update, and of a snapshot.
        slowness: Factor of each worker's computing, in order; 1 for those beyond its end.
        speculate: As `runtime.tolerance.speculate`.
    """

    def __init__(
        self,
        costs: Costs,
        machines: Machines,
        payload: float,
        slowness: Sequence[float] = (),
        *,
        speculate: bool = True,
    ) -> None:
        self.costs, self.machines, self.payload = costs, machines, payload
        self._slowness = [*slowness, *[1.0] * (machines.workers - len(slowness))]
        self._events = EventQueue()
        self._cores = [SharedResource(self._events, machines.cores) for _ in range(machines.count)]
        self._inbound = [SharedResource(self._events, 1.0) for _ in range(machines.count)]
        self._outbound = [SharedResource(self._events, 1.0) for _ in range(machines.count)]
        self._groups: dict[int, list[int]] = {}  # machines of the reports that wait to be added
        self._has_snapshot: set[int] = set()
        self._awaiting_snapshot: dict[int, list[Action]] = {}
        self._schedule = self._make_schedule(speculate)
        self._driver = self._process(0, self._schedule)
        self._workers = self._make_workers(speculate)
        self._adds_groups = self._adds_near_workers()
        self._start()

    def step(self, seconds: Sequence[float]) -> float:
        """Make an outer step of shards that compute for these seconds. Returns its duration."""
        started, done = self._events.now, []
        self._has_snapshot, self._awaiting_snapshot, self._groups = {0}, {}, {}
        self._driver.run(self._drive(seconds), lambda: done.append(True))
        while not done:
            self._events.advance()
        return self._events.now - started

    def _start(self) -> None:
        """Start processes that are there from the beginning, besides the driver and the workers."""

    def _make_schedule(self, speculate: bool) -> Schedule:
        return Schedule(speculate=speculate)

    def _process(self, machine: int, schedule: Schedule) -> Process[Any]:
        """A process that waits no longer than its schedule allows."""
        check = lambda: schedule.next_check_at(self._events.now)  # noqa: E731
        return Process(self._events, machine, self._cores[machine], check)

    def _make_workers(self, speculate: bool) -> list[SimulatedWorker]:
        workers = [
            SimulatedWorker(index, self._machine_of(index), self._driver) for index in range(self.machines.workers)
        ]
        for worker in workers:
            self._schedule.add_worker(worker.index, str(worker.machine))
        return workers

    def _machine_of(self, worker: int) -> int:
        return worker // self.machines.per_machine

    def _adds_near_workers(self) -> bool:
        return self.machines.count > 1 and self.payload >= LARGE_UPDATE_BYTES

    def _drive(self, seconds: Sequence[float]) -> Body:
        costs, missing = self.costs, len(seconds)
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.start(Work("update"), make_shards(missing))
        call_id = self._schedule.call_id
        while missing:
            for assignment in self._schedule.assign(self._events.now):
                yield costs.assign_s
                index = assignment.shard.index
                self._send(self._workers[assignment.worker], Call((call_id, index), seconds[index]))
            yield None
            for reply in self._driver.take():
                yield costs.report_s + costs.report_byte_s * reply.size * (reply.call.key[0] == call_id)
                if reply.call.adds:
                    missing -= reply.call.adds
                elif self._finished(reply):
                    group = self._hold(reply, len(seconds))
                    missing -= group is None
                    if group:
                        yield costs.assign_s
                        self._add(reply.call.key, group)
        yield costs.outer_s + costs.outer_byte_s * self.payload

    def _finished(self, reply: Reply) -> bool:
        """Tell the scheduler, and the other workers with the shard. Returns whether it is the shard's first report."""
        key = reply.call.key
        first, others = self._schedule.finished(reply.worker.index, key, self._events.now, computed=reply.computed)
        for other in others:
            self._workers[other].forgotten.add(key)
        return first

    def _hold(self, reply: Reply, num_shards: int) -> list[int] | None:
        """Keep a report for its group, if it has one.

        Returns:
            The machines of a complete group's reports, an empty list for an incomplete one; None without a group.
        """
        group = reply.call.key[1] // FAN_IN
        size = min(FAN_IN, num_shards - group * FAN_IN)
        if not self._adds_groups or size == 1:
            return None
        waiting = self._groups.setdefault(group, [])
        waiting.append(reply.worker.machine)
        return waiting if len(waiting) == size else []

    def _add(self, key: ShardKey, machines: Sequence[int]) -> None:
        """Have a group added on the machine with most of it, by the worker with the fewest calls."""
        home = max(sorted(set(machines)), key=machines.count)
        local = [worker for worker in self._workers if worker.machine == home]
        adder = min(local, key=lambda worker: (len(worker.calls) + worker.busy, worker.index))
        self._send(adder, Call(key, adds=len(machines), remote=len(machines) - machines.count(home)))

    def _send(self, worker: SimulatedWorker, call: Call) -> None:

        def arrive() -> None:
            worker.calls.append(call)
            if not worker.busy:
                self._work(worker)

        self._with_snapshot(worker.machine, lambda: self._events.after(self.costs.latency_s, arrive))

    def _with_snapshot(self, machine: int, then: Action) -> None:
        """Continue when the machine has the step's snapshot, which is sent to each once."""
        if machine in self._has_snapshot or self.machines.link_bytes_s is None:
            then()
            return
        waiting = self._awaiting_snapshot.setdefault(machine, [])
        waiting.append(then)
        if len(waiting) > 1:
            return

        def arrived() -> None:
            self._has_snapshot.add(machine)
            for action in self._awaiting_snapshot.pop(machine, []):
                action()

        self._outbound[self._sender()].use(self.payload / self.machines.link_bytes_s, arrived)

    def _sender(self) -> int:
        """The machine that sends the snapshot to the next one: the driver's, since all ask for it at once."""
        return 0

    def _work(self, worker: SimulatedWorker) -> None:
        """Do the first call: fetch or compute, check and write; then the next one."""
        call = worker.calls.popleft()
        worker.busy, costs, cores = True, self.costs, self._cores[worker.machine]
        computed = call.key not in worker.forgotten or call.adds > 0
        compute_s = call.compute_s * self._slowness[worker.index]

        def written() -> None:
            size = self.payload if computed and (call.adds or not self._adds_groups) else 0.0
            self._reply(Reply(worker, call, size, computed))
            worker.busy = False
            if worker.calls:
                self._work(worker)

        def write() -> None:
            size = self.payload * computed
            cores.use(costs.shard_s + costs.shard_byte_s * size + costs.add_byte_s * size * call.adds, written)

        if call.remote and self.machines.link_bytes_s is not None:
            self._inbound[worker.machine].use(call.remote * self.payload / self.machines.link_bytes_s, write)
        elif call.adds or not computed:
            write()
        elif self.machines.computing_takes_core:
            cores.use(compute_s, write)
        else:
            self._events.after(compute_s, write)

    def _reply(self, reply: Reply) -> None:
        self._deliver(reply, reply.size, reply.worker.machine, reply.worker.reports_to)

    def _deliver(self, message: Any, size: float, machine: int, receiver: Process[Any]) -> None:
        """Bring a message to a process: over the link of its machine, through Ray's own processes there."""
        costs, home = self.costs, receiver.machine

        def received() -> None:
            needed = costs.ray_s + costs.ray_byte_s * size
            self._cores[home].use(needed, lambda: self._events.after(costs.latency_s, lambda: receiver.post(message)))

        if machine != home and size and self.machines.link_bytes_s is not None:
            self._inbound[home].use(size / self.machines.link_bytes_s, received)
        else:
            received()
