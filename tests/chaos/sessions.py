"""Processes of a test, each in a session of its own, so that whatever they start is found and ended with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..waiting import until

MARK = "DISTMETA_CHAOS"


@dataclass(frozen=True)
class Session:
    """A session: its name, its leader, and where that writes."""

    name: str
    leader: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether the leader runs."""
        return self.leader.poll() is None

    def members(self) -> list[psutil.Process]:
        """Those that run, in order of their ids; the leader's end is taken note of."""
        self.leader.poll()
        return [process for process in _running() if _session_of(process.pid) == self.leader.pid]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of them."""
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def end(self, timeout_s: float = 30.0) -> None:
        """Kill all of them, and those that they start meanwhile."""
        for _ in until(timeout_s, f"processes of {self.name} do not end"):
            self.send(signal.SIGKILL)
            if not self.members():
                return


class Sessions:
    """Starts sessions and remembers them.

    Args:
        mark: Value of a variable that all their processes bear in their environment.
        environment: Their other variables.
        folder: Where they work and write their logs.
    """

    def __init__(self, mark: str, environment: Mapping[str, str], folder: Path) -> None:
        self._mark, self._environment, self._folder = mark, dict(environment), folder
        self._started: list[Session] = []

    def start(self, name: str, command: list[str]) -> Session:
        """Start a command in a session of its own; its output goes to `<name>.log`, of which there must be none."""
        log = self._folder / f"{name}.log"
        with log.open("xb") as output:
            leader = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**self._environment, MARK: self._mark},
                start_new_session=True,
            )
        self._started.append(Session(name, leader, log))
        return self._started[-1]

    def survivors(self) -> dict[psutil.Process, str]:
        """What runs: the members of all sessions, and processes elsewhere that bear the mark; with descriptions."""
        for session in self._started:
            session.leader.poll()
        names = {session.leader.pid: session.name for session in self._started}
        found = {}
        for process in _running():
            name = names.get(_session_of(process.pid), "")
            if name or self._bears_mark(process):
                found[process] = f"{name or 'elsewhere'}: {_describe(process)}"
        return found

    def wait_for_the_end(self, timeout_s: float) -> list[str]:
        """Wait until nothing runs. Returns what still does after so many seconds."""
        deadline = time.monotonic() + timeout_s
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return list(left.values())

    def end(self, timeout_s: float = 30.0) -> None:
        """Kill everything."""
        for _ in until(timeout_s, "processes do not end"):
            if not (left := self.survivors()):
                return
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def _bears_mark(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark
        except (psutil.Error, OSError):
            return False


def title(process: psutil.Process) -> str:
    """Its command line; Ray's workers write there what they do."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _running() -> Iterable[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}) {title(process)[:150]}"
    except psutil.Error:
        return f"{process.pid} (ending)"
