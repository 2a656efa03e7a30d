"""Several runs at a time, each in a process of its own (`distmeta.training.seed_process`).

    this process                              child
    the run                 -- stdin ------>  trains it, and stops when its input ends: with this process
    shown with a prefix     <- stdout, stderr
    result or error         <- temporary file
    signal                  -- SIGTERM ---->  saves a checkpoint

Children are in sessions of their own: Ctrl-C in a terminal reaches this process alone. It passes every signal on once,
and waits until they have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from distmeta.config import RunConfig
from distmeta.core.errors import WorkerError
from distmeta.core.signals import SignalGuard, Stopped
from distmeta.program.program import threads_of
from distmeta.tracking.environment import num_cores
from distmeta.training.seed_process import error_from_json, request_of
from distmeta.training.seed_run import SeedRun

POLL_S = 0.05
_SHOWN_S = 5.0
"""How long to wait for the last lines of a child that has ended: what it has started may keep its output open."""
_ROOT = str(Path(__file__).parents[2])
_printing = threading.Lock()


def room_for(config: RunConfig) -> int:
    """How many runs of this kind fit side by side, at least 1: as many as there are cores for their lanes.

    1 with Ray, whose workers have the cores, on a GPU, which one run fills, and where a result depends on time that
    the runs would take from each other.
    """
    timed = config.train.budget_s is not None or config.engine.strategy == "measured"
    if config.runtime.executor != "local" or config.runtime.device != "cpu" or timed:
        return 1
    return max(1, num_cores() // threads_of(config))


def train_side_by_side(runs: Mapping[int, SeedRun], at_once: int) -> dict[int, Mapping[str, Any]]:
    """Train runs, at most `at_once` at a time, started in their order.

    Args:
        runs: The runs by seed.
        at_once: Number of processes.

    Returns:
        The results by seed, as `SeedRun.train` gives them.

    Raises:
        Exception: That of the first run that failed. No other one is started then, and those that run are stopped.
        Stopped: By a signal; the runs have been stopped before.
    """
    with SignalGuard() as guard:
        with guard.shielded():
            results = _Children(guard).train(runs, at_once)
        guard.check()
    return results


def command() -> list[str]:
    """The child, without the number of its file."""
    return [sys.executable, "-P", "-m", "distmeta.training.seed_process"]  # -P: its path is that of this process


class _Child:
    """A process that trains a run."""

    def __init__(self, seed: int, run: SeedRun) -> None:
        self.seed, self.name = seed, run.config.name
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 - read by `wait`
        number = self._answer.fileno()
        self.process = subprocess.Popen(
            [*command(), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=(number,),
            env={**os.environ, "PYTHONPATH": _python_path()},
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=_show, args=(source, f"seed {seed} | ", target), daemon=True)
            for source, target in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        ]
        for thread in self._threads:
            thread.start()
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is noticed later
            _input(self.process).buffer.write(request_of(run))
            _input(self.process).flush()

    def wait(self) -> dict[str, Any]:
        """Wait for its end and return its answer; empty if it has none."""
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            _input(self.process).close()
        for thread in self._threads:
            thread.join(_SHOWN_S)
        with self._answer as file:
            file.seek(0)
            content = file.read()
        try:
            answer: dict[str, Any] = json.loads(content)
        except ValueError:
            return {}
        return answer

    def error(self, answer: Mapping[str, Any]) -> BaseException:
        """What to raise for an answer without a result."""
        if "error" in answer:
            return error_from_json(answer["error"])
        if "stopped" in answer:
            return Stopped(answer["stopped"])
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerError(f"the process of {self.name} {how}")


class _Children:
    """The processes that train runs.

    Args:
        guard: Its signals are passed on; they must not raise meanwhile.
    """

    def __init__(self, guard: SignalGuard) -> None:
        self._guard, self._passed_on = guard, 0
        self._running: list[_Child] = []
        self._results: dict[int, Mapping[str, Any]] = {}
        self._error: BaseException | None = None

    @property
    def _stopping(self) -> bool:
        return self._guard.requested or self._error is not None

    def train(self, runs: Mapping[int, SeedRun], at_once: int) -> dict[int, Mapping[str, Any]]:
        """The results by seed; fewer if a signal has arrived."""
        waiting = deque(runs.items())
        try:
            while self._running or (waiting and not self._stopping):
                while waiting and len(self._running) < at_once and not self._stopping:
                    self._running.append(_Child(*waiting.popleft()))
                time.sleep(POLL_S)
                self._pass_signals_on()
                for child in [child for child in self._running if child.process.poll() is not None]:
                    self._running.remove(child)
                    self._take(child)
        finally:
            self._stop()  # those that are left where a process could not be started
            for child in self._running:
                child.wait()
        if self._error is not None:
            raise self._error
        return self._results

    def _pass_signals_on(self) -> None:
        arrived = self._guard.arrived
        for _ in range(self._passed_on, arrived):
            self._stop()
        self._passed_on = arrived

    def _stop(self) -> None:
        for child in self._running:
            child.process.terminate()

    def _take(self, child: _Child) -> None:
        """The answer of a child that has ended. How it ended says nothing once it has been told to."""
        answer, stopping = child.wait(), self._stopping
        if "result" in answer:
            self._results[child.seed] = answer["result"]
        elif self._error is None and ("error" in answer or not stopping):
            self._error = child.error(answer)
            if not stopping:
                self._stop()


def _show(source: TextIO, prefix: str, target: TextIO) -> None:
    with source:
        for line in source:
            # If it cannot be shown, it is read all the same: the child must not wait for that.
            with contextlib.suppress(OSError, ValueError), _printing:
                target.write(f"{prefix}{line.rstrip()}\n")
                target.flush()


def _python_path() -> str:
    """All that this process imports from: users' own code may import what lies beside the program."""
    paths = dict.fromkeys([*map(os.path.abspath, sys.path), _ROOT])
    return os.pathsep.join(path for path in paths if os.path.exists(path))


def _input(process: subprocess.Popen[str]) -> Any:
    return process.stdin  # never None: it is a pipe
