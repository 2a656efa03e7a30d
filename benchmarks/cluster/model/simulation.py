"""A discrete-event simulation of synchronous training: a driver, workers on machines, the bytes between them.

The driver does one thing at a time, in the order of the real one, and asks the real scheduler:

    begin (pull, put) -> assign -> [wait -> every report that has come: fetch, add -> assign] ... -> outer step

k users at once of a machine's C cores run at min(1, C / k) of their speed. A worker sleeps or computes, then checks and
writes its update; reports from other machines share the driver's link. Where there are several machines and updates are
large, groups of FAN_IN are added on their machines first, as the real workers do.

Times are seconds, sizes bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.events import Action, EventQueue, SharedResource
from distmeta.core.types import Shard, TaskSpec, Work
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.server.tree import FAN_IN


@dataclass(frozen=True)
class _Call:
    """A call of a worker: compute a shard, or add a group of `adds` reports (`key` is that of its first shard)."""

    key: ShardKey
    compute_s: float = 0.0
    adds: int = 0
    remote: int = 0


@dataclass
class _Worker:
    """A worker: its calls in order, and the shards that it need not compute any more."""

    index: int
    machine: int
    calls: deque[_Call] = field(default_factory=deque)
    forgotten: set[ShardKey] = field(default_factory=set)
    busy: bool = False


@dataclass(frozen=True)
class _Reply:
    """The reply to a call: `size` bytes of it go to the driver; `computed` is False for a forgotten shard."""

    worker: _Worker
    call: _Call
    size: float
    computed: bool


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
        self._workers = [_Worker(index, index // machines.per_machine) for index in range(machines.workers)]
        self._cores = [SharedResource(self._events, machines.cores) for _ in range(machines.count)]
        self._inbound = [SharedResource(self._events, 1.0) for _ in range(machines.count)]
        self._outbound = SharedResource(self._events, 1.0)
        self._adds_groups = machines.count > 1 and payload >= LARGE_UPDATE_BYTES
        self._groups: dict[int, list[int]] = {}  # machines of the reports that wait to be added
        self._schedule = Schedule(speculate=speculate)
        for worker in self._workers:
            self._schedule.add_worker(worker.index, str(worker.machine))
        self._replies: deque[_Reply] = deque()
        self._resume: Action | None = None
        self._has_snapshot: set[int] = set()
        self._awaiting_snapshot: dict[int, list[Action]] = {}

    def step(self, seconds: Sequence[float]) -> float:
        """Make an outer step of shards that compute for these seconds. Returns its duration."""
        started, done = self._events.now, []
        self._has_snapshot, self._awaiting_snapshot, self._groups = {0}, {}, {}
        driver = self._drive(seconds)

        def resume() -> None:
            try:
                needed = next(driver)
            except StopIteration:
                done.append(True)
                return
            if needed is None:
                self._wait(resume)
            else:
                self._cores[0].use(needed, resume)

        resume()
        while not done:
            self._events.advance()
        return self._events.now - started

    def _drive(self, seconds: Sequence[float]) -> Iterator[float | None]:
        """The driver: yields the processor seconds that it needs, or None to wait for a reply."""
        costs, missing = self.costs, len(seconds)
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.start(Work("update"), [Shard(i, (TaskSpec(i, 0, "model"),)) for i in range(missing)])
        call_id = self._schedule.call_id
        while missing:
            for assignment in self._schedule.assign(self._events.now):
                yield costs.assign_s
                index = assignment.shard.index
                self._send(self._workers[assignment.worker], _Call((call_id, index), seconds[index]))
            if not self._replies:
                yield None
            for reply in [self._replies.popleft() for _ in range(len(self._replies))]:
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

    def _finished(self, reply: _Reply) -> bool:
        """Tell the scheduler, and the other workers with the shard. Returns whether it is the shard's first report."""
        key = reply.call.key
        first, others = self._schedule.finished(reply.worker.index, key, self._events.now, computed=reply.computed)
        for other in others:
            self._workers[other].forgotten.add(key)
        return first

    def _hold(self, reply: _Reply, num_shards: int) -> list[int] | None:
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
        self._send(adder, _Call(key, adds=len(machines), remote=len(machines) - machines.count(home)))

    def _wait(self, then: Action) -> None:
        """Continue at the next reply, or when the scheduler wants to be asked again."""
        if self._replies:
            then()
            return
        self._resume = then
        wake = self._schedule.next_check_at(self._events.now)
        if wake < math.inf:
            self._events.at(wake, lambda: self._wake(then))

    def _wake(self, then: Action) -> None:
        if self._resume is then:
            self._resume = None
            then()

    def _send(self, worker: _Worker, call: _Call) -> None:

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

        self._outbound.use(self.payload / self.machines.link_bytes_s, arrived)

    def _work(self, worker: _Worker) -> None:
        """Do the first call: fetch or compute, check and write; then the next one."""
        call = worker.calls.popleft()
        worker.busy, costs, cores = True, self.costs, self._cores[worker.machine]
        computed = call.key not in worker.forgotten or call.adds > 0
        compute_s = call.compute_s * self._slowness[worker.index]

        def written() -> None:
            size = self.payload if computed and (call.adds or not self._adds_groups) else 0.0
            self._reply(_Reply(worker, call, size, computed))
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

    def _reply(self, reply: _Reply) -> None:
        """Bring a reply to the driver: over the link, through Ray's own processes."""
        costs = self.costs

        def arrived() -> None:
            self._replies.append(reply)
            if self._resume is not None:
                resume, self._resume = self._resume, None
                resume()

        def received() -> None:
            needed = costs.ray_s + costs.ray_byte_s * reply.size
            self._cores[0].use(needed, lambda: self._events.after(costs.latency_s, arrived))

        if reply.worker.machine and reply.size and self.machines.link_bytes_s is not None:
            self._inbound[0].use(reply.size / self.machines.link_bytes_s, received)
        else:
            received()
