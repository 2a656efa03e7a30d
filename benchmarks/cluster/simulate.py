"""A discrete-event model of synchronous training: a driver, workers on machines, the bytes between them.

The driver does one thing at a time, in the order of the real one:

    begin (pull, put) -> orders -> [wait -> every answer that has come: fetch, add -> orders] ... -> outer step

and the real scheduler says who gets what. Whatever needs a processor shares its machine's
cores with all else there: k at once on C cores run at min(1, C / k) of their speed (processor sharing). A worker sleeps
or computes, then checks and writes its update; answers from other machines share the driver's link. Where there are
several machines and updates are large, groups of FAN_IN are added on their machines first, as the real workers do.

Times are seconds, sizes bytes. No process, no clock: a thousand workers are as easily asked as two.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.cluster.costs import Costs, Site
from benchmarks.cluster.events import Action, Clock, Shared
from distmeta.core.types import Shard, TaskSpec, Work
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.server.tree import FAN_IN


@dataclass(frozen=True)
class _Task:
    """A shard to compute, or (`adds`: how many) a group to add; `key` is that of the group's first shard then."""

    key: ShardKey
    compute_s: float = 0.0
    adds: int = 0
    remote: int = 0


@dataclass
class _Worker:
    """A worker: what it has been ordered, and what it need not do any more."""

    index: int
    machine: int
    orders: deque[_Task] = field(default_factory=deque)
    forgotten: set[ShardKey] = field(default_factory=set)
    busy: bool = False


@dataclass(frozen=True)
class _Answer:
    """What comes back: `size` bytes of it to the driver; `computed` is False of a shard that was forgotten in time."""

    worker: _Worker
    task: _Task
    size: float
    computed: bool


class Simulation:
    """Outer steps on a site.

    Args:
        costs: What things cost.
        site: Where.
        payload: Bytes of an update, and of a snapshot.
        slowness: Factor of each worker's computing; those that are not named have 1.
        speculate: As `runtime.tolerance.speculate`.
    """

    def __init__(
        self,
        costs: Costs,
        site: Site,
        payload: float,
        slowness: Sequence[float] = (),
        *,
        speculate: bool = True,
    ) -> None:
        self.costs, self.site, self.payload = costs, site, payload
        self._slowness = [*slowness, *[1.0] * (site.workers - len(slowness))]
        self._clock = Clock()
        self._workers = [_Worker(index, index // site.per_machine) for index in range(site.workers)]
        machines = -(-site.workers // site.per_machine)
        self._cores = [Shared(self._clock, site.cores) for _ in range(machines)]
        self._in = [Shared(self._clock, 1.0) for _ in range(machines)]
        self._out = Shared(self._clock, 1.0)
        self._near = machines > 1 and payload >= LARGE_UPDATE_BYTES
        self._groups: dict[int, list[int]] = {}  # the machines of the reports that wait to be added
        self._schedule = Schedule(speculate=speculate)
        for worker in self._workers:
            self._schedule.add_worker(worker.index, str(worker.machine))
        self._answers: deque[_Answer] = deque()
        self._resume: Action | None = None
        self._has_snapshot: set[int] = set()
        self._awaiting_snapshot: dict[int, list[Action]] = {}

    def step(self, seconds: Sequence[float]) -> float:
        """Make an outer step of shards that need so long to compute. Returns how long it takes."""
        started, done = self._clock.now, []
        self._has_snapshot, self._awaiting_snapshot, self._groups = {0}, {}, {}
        driver = self._drive(seconds)

        def go_on() -> None:
            try:
                needed = next(driver)
            except StopIteration:
                done.append(True)
                return
            if needed is None:
                self._wait(go_on)
            else:
                self._cores[0].use(needed, go_on)

        go_on()
        while not done:
            self._clock.advance()
        return self._clock.now - started

    def _drive(self, seconds: Sequence[float]) -> Iterator[float | None]:
        """The driver: yields the processor seconds that it needs, or None to wait for an answer."""
        costs, missing = self.costs, len(seconds)
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.start(Work("update"), [Shard(i, (TaskSpec(i, 0, "model"),)) for i in range(missing)])
        call_id = self._schedule.call_id
        while missing:
            for assignment in self._schedule.assign(self._clock.now):
                yield costs.order_s
                key = call_id, assignment.shard.index
                self._send(self._workers[assignment.worker], _Task(key, seconds[assignment.shard.index]))
            if not self._answers:
                yield None
            for answer in [self._answers.popleft() for _ in range(len(self._answers))]:
                yield costs.answer_s + costs.answer_byte_s * answer.size * (answer.task.key[0] == call_id)
                if answer.task.adds:
                    missing -= answer.task.adds
                elif self._finished(answer):
                    group = self._hold(answer, len(seconds))
                    missing -= group is None
                    if group:
                        yield costs.order_s
                        self._add(answer.task.key, group)
        yield costs.outer_s + costs.outer_byte_s * self.payload

    def _finished(self, answer: _Answer) -> bool:
        """Tell the scheduler, and those who have the shard as well. Returns whether it is the shard's first report."""
        worker, key = answer.worker.index, answer.task.key
        first, others = self._schedule.finished(worker, key, self._clock.now, computed=answer.computed)
        for other in others:
            self._workers[other].forgotten.add(key)
        return first

    def _hold(self, answer: _Answer, num_shards: int) -> list[int] | None:
        """Keep a report for its group, if it has one.

        Returns:
            The machines of a complete group's reports, none of another; None where there is no group.
        """
        group = answer.task.key[1] // FAN_IN
        size = min(FAN_IN, num_shards - group * FAN_IN)
        if not self._near or size == 1:
            return None
        waiting = self._groups.setdefault(group, [])
        waiting.append(answer.worker.machine)
        return waiting if len(waiting) == size else []

    def _add(self, key: ShardKey, machines: Sequence[int]) -> None:
        """Have a group added where most of it lies, by the worker with the least to do."""
        home = max(sorted(set(machines)), key=machines.count)
        near = [worker for worker in self._workers if worker.machine == home]
        adder = min(near, key=lambda worker: (len(worker.orders) + worker.busy, worker.index))
        self._send(adder, _Task(key, adds=len(machines), remote=len(machines) - machines.count(home)))

    def _wait(self, then: Action) -> None:
        """Go on when an answer comes, or when the scheduler wants to be asked again."""
        if self._answers:
            then()
            return
        self._resume = then
        wake = self._schedule.next_check_at(self._clock.now)
        if wake < math.inf:
            self._clock.at(wake, lambda: self._wake(then))

    def _wake(self, then: Action) -> None:
        if self._resume is then:
            self._resume = None
            then()

    def _send(self, worker: _Worker, task: _Task) -> None:
        """Bring an order to its worker."""

        def arrive() -> None:
            worker.orders.append(task)
            if not worker.busy:
                self._work(worker)

        def leave() -> None:
            self._clock.at(self._clock.now + self.costs.latency_s, arrive)

        self._with_snapshot(worker.machine, leave)

    def _with_snapshot(self, machine: int, then: Action) -> None:
        """Go on when the machine has the step's snapshot, which is sent to each once."""
        if machine in self._has_snapshot or self.site.link_bytes_s is None:
            then()
            return
        waiting = self._awaiting_snapshot.setdefault(machine, [])
        waiting.append(then)
        if len(waiting) > 1:
            return

        def there() -> None:
            self._has_snapshot.add(machine)
            for one in self._awaiting_snapshot.pop(machine, []):
                one()

        self._out.use(self.payload / self.site.link_bytes_s, there)

    def _work(self, worker: _Worker) -> None:
        """Do the first order: fetch or compute, check and write; then the next one."""
        task = worker.orders.popleft()
        worker.busy, costs, cores = True, self.costs, self._cores[worker.machine]
        computed = task.key not in worker.forgotten or task.adds > 0

        def written() -> None:
            carried = self.payload if computed and (task.adds or not self._near) else 0.0
            self._answer(_Answer(worker, task, carried, computed))
            worker.busy = False
            if worker.orders:
                self._work(worker)

        def write() -> None:
            size = self.payload * computed
            cores.use(costs.task_s + costs.task_byte_s * size + costs.add_byte_s * size * task.adds, written)

        if task.remote and self.site.link_bytes_s is not None:
            self._in[worker.machine].use(task.remote * self.payload / self.site.link_bytes_s, write)
        elif task.adds or not computed:
            write()
        elif self.site.computing_takes_core:
            cores.use(task.compute_s * self._slowness[worker.index], write)
        else:
            self._clock.at(self._clock.now + task.compute_s * self._slowness[worker.index], write)

    def _answer(self, answer: _Answer) -> None:
        """Bring an answer to the driver: over the link, past Ray's own processes."""
        costs = self.costs

        def arrived() -> None:
            self._answers.append(answer)
            if self._resume is not None:
                resume, self._resume = self._resume, None
                resume()

        def behind() -> None:
            needed = costs.behind_s + costs.behind_byte_s * answer.size
            self._cores[0].use(needed, lambda: self._clock.at(self._clock.now + costs.latency_s, arrived))

        if answer.worker.machine and answer.size and self.site.link_bytes_s is not None:
            self._in[0].use(answer.size / self.site.link_bytes_s, behind)
        else:
            behind()
