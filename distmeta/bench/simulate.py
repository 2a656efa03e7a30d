"""A discrete-event model of synchronous training: a driver, workers on machines, the bytes between them.

The driver does one thing at a time, in the order of the real one:

    begin (pull, put) -> orders -> [wait -> every answer that has come: fetch, add -> orders] ... -> outer step

and the real scheduler (`distmeta.runtime.schedule`) says who gets what. Whatever needs a processor shares its machine's
cores with all else there: k at once on C cores run at min(1, C / k) of their speed (processor sharing). A worker sleeps
or computes, then checks and writes its update; answers from other machines share the driver's link.

Times are seconds, sizes bytes. No process, no clock: a thousand workers are as easily asked as two.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from distmeta.bench.events import Action, Clock, Shared
from distmeta.runtime.schedule import Key, Order, Schedule
from distmeta.types import Shard, TaskSpec


@dataclass(frozen=True)
class Costs:
    """What the parts of a step cost, in processor seconds where nothing else is said. `..._byte_s` is for each byte.

    Attributes:
        begin_s, begin_byte_s: Driver, at the begin of a step: pull, encode, put.
        order_s: Driver, for each order.
        answer_s, answer_byte_s: Driver, for each answer: fetch, decode, add.
        outer_s, outer_byte_s: Driver, at the end: the outer step.
        task_s, task_byte_s: Worker, for each shard besides its computation: receive, check, write.
        behind_s, behind_byte_s: Ray's own processes and threads on the driver's machine, for each answer.
        latency_s: Of a message, either way; needs no processor.
    """

    begin_s: float = 0.0
    begin_byte_s: float = 0.0
    order_s: float = 0.0
    answer_s: float = 0.0
    answer_byte_s: float = 0.0
    outer_s: float = 0.0
    outer_byte_s: float = 0.0
    task_s: float = 0.0
    task_byte_s: float = 0.0
    behind_s: float = 0.0
    behind_byte_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True)
class Site:
    """Machines. The driver is on the first one, with that one's workers.

    Attributes:
        workers: How many.
        per_machine: Workers on a machine; the last one may have fewer.
        cores: Of each machine.
        link_bytes_s: What the driver's machine can receive, and can send, in a second; None: no limit.
        computing_takes_core: Computing needs a core; else it is a sleep, as on an accelerator.
    """

    workers: int
    per_machine: int
    cores: int
    link_bytes_s: float | None = None
    computing_takes_core: bool = False


@dataclass
class _Worker:
    """A worker: what it has been ordered, and what it need not do any more."""

    index: int
    machine: int
    orders: deque[tuple[Key, Shard]] = field(default_factory=deque)
    forgotten: set[Key] = field(default_factory=set)
    busy: bool = False


@dataclass(frozen=True)
class _Answer:
    worker: int
    key: Key
    computed: bool


class Simulation:
    """Outer steps on a site.

    Args:
        costs: What things cost.
        site: Where.
        payload: Bytes of an update, and of a snapshot.
        slowness: Factor of each worker's computing; those that are not named have 1.
        speculate: As `runtime.speculate`.
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
        self._in, self._out = Shared(self._clock, 1.0), Shared(self._clock, 1.0)
        self._schedule = Schedule(speculate=speculate)
        for worker in self._workers:
            self._schedule.join(worker.index, str(worker.machine))
        self._answers: deque[_Answer] = deque()
        self._resume: Action | None = None
        self._has_snapshot: dict[int, bool] = {}
        self._awaiting_snapshot: dict[int, list[Action]] = {}

    def step(self, seconds: Sequence[float]) -> float:
        """Make an outer step of shards that need so long to compute. Returns how long it takes."""
        started, done = self._clock.now, []
        self._has_snapshot, self._awaiting_snapshot = {0: True}, {}
        driver = self._drive([Shard(i, (TaskSpec(i, 0, "model"),)) for i in range(len(seconds))], seconds)

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

    def _drive(self, shards: Sequence[Shard], seconds: Sequence[float]) -> Iterator[float | None]:
        """The driver: yields the processor seconds that it needs, or None to wait for an answer."""
        costs, missing = self.costs, len(shards)
        yield costs.begin_s + costs.begin_byte_s * self.payload
        self._schedule.begin("update", shards)
        epoch = self._schedule.epoch
        while missing:
            for order in self._schedule.hand_out(self._clock.now):
                yield costs.order_s
                self._send(order, epoch, seconds)
            if not self._answers:
                yield None
            arrived = [self._answers.popleft() for _ in range(len(self._answers))]
            for answer in arrived:
                current = answer.key[0] == epoch
                payload = self.payload if answer.computed else 0.0
                yield costs.answer_s + costs.answer_byte_s * payload * current
                first, others = self._schedule.finished(
                    answer.worker, answer.key, self._clock.now, computed=answer.computed
                )
                for other in others:
                    self._workers[other].forgotten.add(answer.key)
                missing -= first
        yield costs.outer_s + costs.outer_byte_s * self.payload

    def _wait(self, then: Action) -> None:
        """Go on when an answer comes, or when the scheduler wants to be asked again."""
        if self._answers:
            then()
            return
        self._resume = then
        wake = self._schedule.wake(self._clock.now)
        if wake < math.inf:
            self._clock.at(wake, lambda: self._wake(then))

    def _wake(self, then: Action) -> None:
        if self._resume is then:
            self._resume = None
            then()

    def _send(self, order: Order, epoch: int, seconds: Sequence[float]) -> None:
        """Bring an order to its worker."""
        worker, key = self._workers[order.worker], (epoch, order.shard.index)

        def arrive() -> None:
            worker.orders.append((key, order.shard))
            if not worker.busy:
                self._work(worker, seconds)

        self._with_snapshot(worker.machine, lambda: self._clock.at(self._clock.now + self.costs.latency_s, arrive))

    def _with_snapshot(self, machine: int, then: Action) -> None:
        """Go on when the machine has the step's snapshot, which is sent to each once."""
        if self._has_snapshot.get(machine) or self.site.link_bytes_s is None:
            then()
            return
        waiting = self._awaiting_snapshot.setdefault(machine, [])
        waiting.append(then)
        if len(waiting) > 1:
            return

        def there() -> None:
            self._has_snapshot[machine] = True
            for one in self._awaiting_snapshot.pop(machine, []):
                one()

        self._out.use(self.payload / self.site.link_bytes_s, there)

    def _work(self, worker: _Worker, seconds: Sequence[float]) -> None:
        """Do the first order: compute, check and write; then the next one."""
        key, shard = worker.orders.popleft()
        worker.busy, costs, cores = True, self.costs, self._cores[worker.machine]
        computed = key not in worker.forgotten

        def written() -> None:
            self._answer(_Answer(worker.index, key, computed), worker.machine)
            worker.busy = False
            if worker.orders:
                self._work(worker, seconds)

        def write() -> None:
            cores.use(costs.task_s + costs.task_byte_s * self.payload * computed, written)

        compute_s = seconds[shard.index] * self._slowness[worker.index] if computed else 0.0
        if self.site.computing_takes_core:
            cores.use(compute_s, write)
        else:
            self._clock.at(self._clock.now + compute_s, write)

    def _answer(self, answer: _Answer, machine: int) -> None:
        """Bring an answer to the driver: over the link, past Ray's own processes."""
        costs = self.costs

        def arrived() -> None:
            self._answers.append(answer)
            if self._resume is not None:
                resume, self._resume = self._resume, None
                resume()

        def behind() -> None:
            payload = self.payload if answer.computed else 0.0
            needed = costs.behind_s + costs.behind_byte_s * payload
            self._cores[0].use(needed, lambda: self._clock.at(self._clock.now + costs.latency_s, arrived))

        if machine and self.site.link_bytes_s is not None and answer.computed:
            self._in.use(self.payload / self.site.link_bytes_s, behind)
        else:
            behind()
