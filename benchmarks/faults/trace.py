"""A trace of faults, and a training that lives through it.

A training is watched from outside: its steps are lines of a file, its workers processes below the one that was started.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import psutil

from benchmarks.faults.systems import System
from benchmarks.report import progress
from distmeta.core.errors import UserError

Kind = Literal["worker killed", "worker hangs", "driver killed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
POLL_S = 0.02
LIMIT_S = 240.0
"""For going on after a fault, and for starting."""
_STEP, _DIGEST = re.compile(r"^step (\d+)/\d+", re.MULTILINE), re.compile(r"^digest\s+([0-9a-f]{64})", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """What happens after a step; `choice`, in [0, 1), says to which worker."""

    kind: Kind
    step: int
    choice: float


def trace(seed: int, rounds: int, steps: int) -> list[Fault]:
    """Each kind `rounds` times, in any order, about as far from each other; none in the first steps or the last."""
    draw = random.Random(seed)
    kinds = list(KINDS) * rounds
    draw.shuffle(kinds)
    distance = steps / (len(kinds) + 1)
    return [
        Fault(kind, round((i + 1 + draw.uniform(-0.2, 0.2)) * distance), draw.random()) for i, kind in enumerate(kinds)
    ]


@dataclass
class Outcome:
    """What a fault did.

    Attributes:
        kind: The fault.
        pause_s: Seconds from the fault until a step was made that had not been made before; None: it did not go on.
        redone: Steps that were made again.
    """

    kind: Kind
    pause_s: float | None
    redone: int


@dataclass
class Training:
    """A training of a system that runs, or has run.

    Attributes:
        system: The system.
        folder: Of its files.
        form: Which training.
        steps: How many steps it is to make.
        times: When each line of a step was seen, and the step, in order.
        digest: Of the meta-parameters at the end.
    """

    system: System
    folder: Path
    form: str
    steps: int
    times: list[tuple[float, int]] = field(default_factory=list)
    digest: str | None = None

    def start(self) -> None:
        """Begin, or go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.system.command(self.folder, self.form, self.steps)
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def last(self) -> int:
        """The furthest step that has been made."""
        return max((step for _, step in self.times), default=0)

    @property
    def step_s(self) -> float:
        """Median seconds of a step."""
        gaps = sorted(
            after[0] - before[0]
            for before, after in zip(self.times, self.times[1:], strict=False)
            if after[1] == before[1] + 1
        )
        return gaps[len(gaps) // 2] if gaps else 0.0

    def look(self) -> None:
        """Read what is new in the journal."""
        time.sleep(POLL_S)
        path = self.folder / "journal"
        text = path.read_text(errors="replace") if path.exists() else ""
        found = [int(step) for step in _STEP.findall(text)]
        now = time.monotonic()
        self.times += [(now, step) for step in found[len(self.times) :]]
        if digests := _DIGEST.findall(text):
            self.digest = digests[-1]

    def until(self, step: int) -> bool:
        """Wait until a step has been made. Whether it was, before the training ended or the time was over."""
        deadline = time.monotonic() + LIMIT_S
        while self.last < step:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.look()
                return self.last >= step
            known = len(self.times)
            self.look()
            if len(self.times) > known:
                deadline = time.monotonic() + LIMIT_S
        return True

    def workers(self) -> list[psutil.Process]:
        """The processes of its workers, in the order of their ids."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith(self.system.worker) and process.status() != psutil.STATUS_STOPPED:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def hit(self, fault: Fault) -> Outcome:
        """Let a fault happen, and wait until the training goes on."""
        at, seen, before = time.monotonic(), len(self.times), self.last
        if fault.kind == "driver killed":
            self.end()
            self.start()
        else:
            if not (workers := self.workers()):
                raise UserError(
                    f"no worker of {self.system.title} to be hit", where=fault.kind, allowed="a larger --steps"
                )
            victim = workers[int(fault.choice * len(workers))]
            victim.send_signal(signal.SIGKILL if fault.kind == "worker killed" else signal.SIGSTOP)
        # The step that was being made may still be finished.
        goes_on = self.until(before + 2)
        pause_s = next((when - at for when, step in self.times[seen:] if step > before + 1), None) if goes_on else None
        redone = sum(step <= before for _, step in self.times[seen:])
        outcome = Outcome(fault.kind, pause_s, redone)
        progress(
            f"{self.system.title}, {self.form}: step {before}: {fault.kind}: {outcome.pause_s}, {redone} steps again"
        )
        return outcome

    def wait(self) -> bool:
        """Wait for its end. Whether it made all steps."""
        reached = self.until(self.steps)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60.0)
        self.look()
        return reached

    def end(self) -> None:
        """Kill it and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            for process in (psutil.Process(self._process.pid), *family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=20)
        self._process.wait()
