"""The kinds of faults, the plan of a run's faults, and their happening."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import psutil

from ..waiting import until
from .place import Place
from .supervised import SAVING_FAILS, Run

Kind = Literal[
    "worker_kill",
    "worker_hang",
    "worker_pause",
    "leader_kill",
    "raylet_kill",
    "driver_kill",
    "driver_kill_in_outage",
    "mlflow_stop",
    "mlflow_kill",
    "runs_replaced",
    "disk_full",
]
"""A worker killed; stopped for good; stopped for a while. A leader killed. A raylet killed, alone or with all on its
node. The driver killed, also while MLflow is away. The MLflow server stopped, or killed and started again. A file in
place of the checkpoints; no room for them."""
KINDS: tuple[Kind, ...] = get_args(Kind)

EARLY = 0.2
"""Share of faults that may come before a driver's first step, or kill it while the store is broken."""
_STANDSTILL_S = 400.0
_NOTICE_S = 12.0
"""After the last fault: beyond a silent worker's time limit, so that it is noticed as well."""


@dataclass(frozen=True)
class Fault:
    """A fault: what, how long after the one before, how long it lasts; `choice`, in [0, 1), says whom it hits."""

    kind: Kind
    after_s: float
    lasts_s: float
    choice: float
    early: bool


def plan(seed: int, count: int, kinds: tuple[Kind, ...]) -> list[Fault]:
    """Draw faults: each kind as often as the others, in any order."""
    draw = random.Random(seed)
    order = [kinds[number % len(kinds)] for number in range(count)]
    draw.shuffle(order)
    return [_draw(kind, draw) for kind in order]


def _draw(kind: Kind, draw: random.Random) -> Fault:
    shortest, longest = {"worker_pause": (1.0, 5.0), "raylet_kill": (1.0, 6.0), "driver_kill": (0.0, 3.0)}.get(
        kind, (2.0, 8.0) if kind in ("runs_replaced", "disk_full") else (2.0, 20.0)
    )
    return Fault(kind, draw.uniform(0.5, 5.0), draw.uniform(shortest, longest), draw.random(), draw.random() < EARLY)


@dataclass(frozen=True)
class _Heal:
    """What ends a fault, and when."""

    at: float
    kind: str
    act: Callable[[], None]


class Chaos:
    """Lets faults happen to a run, ends them, and keeps the book.

    Args:
        place: What is broken.
        run: Whom it is to hit.

    Attributes:
        counts: Faults that hit the run, by kind.
    """

    def __init__(self, place: Place, run: Run) -> None:
        self._place, self._run = place, run
        self.counts: Counter[str] = Counter()
        self._heals: list[_Heal] = []
        self._began = time.monotonic()
        self._moved, self._moved_at = 0, self._began
        self._refusable_until = 0.0
        self._saved_when_mended = -1
        self._down: set[str] = set()

    def go(self, faults: list[Fault]) -> None:
        """Let the faults happen, one after the other, each when the run is at work; then wait until it is well."""
        self._until(lambda: self._run.at_work and self._run.saved() > 0)
        for fault in faults:
            self._pass(fault.after_s)
            while not self._happens(fault):
                self._until(lambda fault=fault: self._ripe(fault))
        self._pass(_NOTICE_S)
        self._until(lambda: not self._heals and self._run.at_work)
        saved = self._run.saved()
        self._until(lambda: self._run.at_work and self._run.saved() > saved)

    def finish(self, steps: int) -> None:
        """Let the run come to its end without further faults."""
        self._run.finish(steps)
        self._until(lambda: not self._run.alive and self._run.saved() == steps)
        driver = self._run.driver
        assert driver is not None and driver.leader.returncode == 0, self._run.said()[-4000:]

    def tell(self, text: str) -> None:
        """Write a line."""
        print(f"  {time.monotonic() - self._began:6.1f} s  step {self._run.step():<5d} {text}", flush=True)

    def _ripe(self, fault: Fault) -> bool:
        """Whether the run is there to be hit, and no other fault is in the way."""
        under_way = {heal.kind for heal in self._heals}
        mlflow = {"mlflow_stop", "mlflow_kill", "driver_kill_in_outage"}
        if fault.kind in mlflow and under_way & mlflow:
            return False
        if _of_store(fault.kind):
            # A run that still waits before it saves again would not notice.
            return self._run.at_work and self._run.saved() > self._saved_when_mended
        if fault.kind == "leader_kill" and not self._workers("LeaderActor"):
            return False
        if fault.early and fault.kind.startswith("worker"):
            return self._run.alive and bool(self._workers())
        if fault.early:
            return self._run.alive and time.time() - self._run.born > 10.0 * fault.choice
        return self._run.at_work

    def _happens(self, fault: Fault) -> bool:
        """Let a fault happen. Returns whether it hit anything."""
        if not self._ripe(fault):
            return False
        hit = getattr(self, f"_{fault.kind}")(fault)
        if hit:
            self.counts[fault.kind] += 1
            self.tell(f"{sum(self.counts.values()):3d}  {fault.kind}: {hit}")
        return bool(hit)

    def _worker_kill(self, fault: Fault) -> str:
        return self._signal(fault, signal.SIGKILL)

    def _worker_hang(self, fault: Fault) -> str:
        return self._signal(fault, signal.SIGSTOP)

    def _worker_pause(self, fault: Fault) -> str:
        workers = self._workers()
        hit = self._signal(fault, signal.SIGSTOP)

        def go_on() -> None:
            for worker in workers:
                with contextlib.suppress(psutil.Error):  # it may have been ended for its silence
                    if str(worker.pid) in hit.split():
                        worker.send_signal(signal.SIGCONT)

        if hit:
            self._heal_later(fault, go_on)
        return f"{hit} for {fault.lasts_s:.1f} s" if hit else ""

    def _leader_kill(self, fault: Fault) -> str:
        return self._signal(fault, signal.SIGKILL, "LeaderActor")

    def _raylet_kill(self, fault: Fault) -> str:
        up = [name for name in self._place.nodes if name not in self._down]
        names = [name for name in up if self._place.raylet(name) is not None]
        # A worker must be left, so that it is a loss and not a pause.
        if len(names) < 2:
            return ""
        name = names[int(fault.choice * len(names))]
        alone = fault.choice * len(names) % 1 < 0.5
        if (raylet := self._place.raylet(name)) is None:
            return ""
        self._down.add(name)
        if alone:
            raylet.kill()
        else:
            self._place.nodes[name].end()

        def start() -> None:
            self._place.start_node(name)
            self._down.remove(name)

        self._heal_later(fault, start)
        return f"{name}, {'alone' if alone else 'with all on it'}, a new one in {fault.lasts_s:.1f} s"

    def _driver_kill(self, fault: Fault) -> str:
        self._run.kill(fault.lasts_s)
        return f"a new one in {fault.lasts_s:.1f} s"

    def _driver_kill_in_outage(self, fault: Fault) -> str:
        hit = self._mlflow_kill(fault) if fault.choice < 0.5 else self._mlflow_stop(fault)
        self._pass(3.0 * fault.choice)
        if not self._run.alive:
            return ""
        self._run.kill(fault.choice)
        return f"MLflow {hit}, the driver {3.0 * fault.choice:.1f} s later"

    def _mlflow_stop(self, fault: Fault) -> str:
        self._place.server.send(signal.SIGSTOP)
        server = self._place.server
        self._heal_later(fault, lambda: server.send(signal.SIGCONT))
        return f"stopped for {fault.lasts_s:.1f} s"

    def _mlflow_kill(self, fault: Fault) -> str:
        self._place.server.end()
        self._heal_later(fault, self._place.start_server)
        return f"killed, a new one in {fault.lasts_s:.1f} s"

    def _runs_replaced(self, fault: Fault) -> str:
        return self._break_store(fault, self._place.replace_runs, self._place.restore_runs)

    def _disk_full(self, fault: Fault) -> str:
        return self._break_store(fault, self._place.fill, self._place.empty)

    def _break_store(self, fault: Fault, harm: Callable[[], None], mend: Callable[[], None]) -> str:
        """Break the store until a save has failed, now and then until a driver has been killed as well."""
        before, life = self._run.said().count(SAVING_FAILS), self._run.lives
        harm()
        self._heals.append(_Heal(float("inf"), "store", mend))
        since = time.monotonic()
        self._pass(fault.lasts_s)
        self._until(
            lambda: (
                self._run.lives > life
                or self._run.said().count(SAVING_FAILS) > before
                or time.monotonic() - since > 4.0 * fault.lasts_s + 20.0
            )
        )
        hit = self._run.lives > life or self._run.said().count(SAVING_FAILS) > before
        if hit and fault.early and self._run.alive:
            # The one that is started now finds the store broken, or just mended.
            self._run.kill(fault.choice)
            self._pass(4.0 * fault.lasts_s * fault.choice)
        self._heals = [heal for heal in self._heals if heal.kind != "store"]
        mend()
        self._saved_when_mended = self._run.saved()
        self._refusable_until = time.monotonic() + 60.0
        killed = ", the driver killed" if hit and self._run.lives > life else ""
        return f"for {time.monotonic() - since:.1f} s{killed}" if hit else ""

    def _workers(self, kind: str = "WorkerActor") -> list[psutil.Process]:
        """Those of the present driver that run."""
        found = [worker for name in self._place.nodes for worker in self._place.actors(name, kind)]
        return [worker for worker in found if _age_at_most(worker, self._run.born)]

    def _signal(self, fault: Fault, number: signal.Signals, kind: str = "WorkerActor") -> str:
        workers = self._workers(kind)
        if not workers:
            return ""
        worker = workers[int(fault.choice * len(workers))]
        try:
            worker.send_signal(number)
        except psutil.Error:
            return ""
        return f"process {worker.pid} of {len(workers)}"

    def _heal_later(self, fault: Fault, act: Callable[[], None]) -> None:
        self._heals.append(_Heal(time.monotonic() + fault.lasts_s, fault.kind, act))

    def _pass(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= end)

    def _until(self, reached: Callable[[], bool]) -> None:
        """Let time pass until a condition holds, ending the faults that are over and starting drivers again."""
        for _ in until(3600.0, "the chaos has no end"):
            for heal in [heal for heal in self._heals if heal.at <= time.monotonic()]:
                self._heals.remove(heal)
                heal.act()
            if reached():
                return
            broken = any(heal.kind == "store" for heal in self._heals)
            self._place.start_ended_nodes(but=self._down)
            self._run.look_after(may_be_refused=broken or time.monotonic() < self._refusable_until)
            self._must_move()

    def _must_move(self) -> None:
        step, now = self._run.step(), time.monotonic()
        if step > self._moved:
            self._moved, self._moved_at = step, now
        assert now - self._moved_at < _STANDSTILL_S, f"no step for {_STANDSTILL_S:g} s: {self._run.said()[-4000:]}"


def _of_store(kind: str) -> bool:
    return kind in ("runs_replaced", "disk_full")


def _age_at_most(process: psutil.Process, born: float) -> bool:
    try:
        running = process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        return running and bool(process.create_time() > born)
    except psutil.Error:
        return False
