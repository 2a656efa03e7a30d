"""Run distmeta on one input and judge it.

For every input: exit code 0 or 2 (1 only for failures that are no user's fault), one line on stderr with code 2, no
other exception, no more than `LIMIT_S` seconds, no file written outside the input's folder and DISTMETA_HOME, and no
connection unless the command is one that connects.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from hypothesis import note
from pydantic import ValidationError

from distmeta.cli import app, failures
from distmeta.core.errors import DistmetaError, UserError

from .journal import Journal
from .watch import Watch, watched

LIMIT_S = 20.0


class Hang(BaseException):
    """An input has taken longer than `LIMIT_S`."""


@dataclass(frozen=True)
class Problem:
    """What is wrong about the outcome of one input.

    Attributes:
        kind: `traceback`, `hang`, `exit code`, `output`, `write`, `connection`, `signal`.
        text: What happened.
    """

    kind: str
    text: str


@dataclass
class Outcome:
    """What a command or a call has done.

    Attributes:
        code: The exit code; None for a call.
        value: What a call has returned; None if it has failed.
        stdout: What was printed.
        stderr: The same, by compiled libraries too.
        error: The error that was reported.
        problems: What is wrong.
    """

    code: int | None = None
    value: Any = None
    stdout: str = ""
    stderr: str = ""
    error: BaseException | None = None
    problems: list[Problem] = field(default_factory=list)

    def blame(self, kind: str, text: str) -> None:
        self.problems.append(Problem(kind, text))


class Place:
    """A folder for one input: `work`, the current one, `home`, DISTMETA_HOME, and others that must stay as they are.

    Attributes:
        root: The folder.
        work: The current folder of commands.
        home: DISTMETA_HOME.
    """

    def __init__(self, root: Path, name: str, journal: Journal | None) -> None:
        self.root, self.work, self.home = root, root / "work", root / "home"
        self._name, self._journal = name, journal
        for folder in (self.work, self.home, root / "neighbour", root / "user", root / "tmp"):
            folder.mkdir()
        (root / "neighbour" / "file").write_text("content")
        self._before = self._others()

    def run(self, *arguments: str, connects: bool = False) -> Outcome:
        """Run a command, and judge it.

        Args:
            arguments: The command line.
            connects: Whether it is one that may try to connect.
        """

        def command(outcome: Outcome) -> None:
            report = failures.fail

            def fail(message: str, code: int) -> int:
                outcome.error = sys.exception()
                return report(message, code)

            with mock.patch.object(app, "fail", fail), mock.patch.object(failures, "fail", fail):
                outcome.code = app.run(arguments)

        text = " ".join(shlex.quote(each) for each in ("distmeta", *arguments))
        return self._judged(command, text, connects, _judge_command)

    def call(self, text: str, function: Callable[[], Any]) -> Outcome:
        """Call a function of the package, and judge it.

        Args:
            text: What is called, to reproduce it.
            function: Calls it.
        """

        def command(outcome: Outcome) -> None:
            try:
                outcome.value = function()
            except (DistmetaError, ValidationError) as error:
                outcome.error = error

        return self._judged(command, text, False, _judge_call)

    def _judged(
        self, command: Callable[[Outcome], None], text: str, connects: bool, judge: Callable[[Outcome], None]
    ) -> Outcome:
        if self._journal:
            self._journal.write(input=self._name, command=text)
        else:
            note(f"{self.root}: {text}")
        outcome, watch = Outcome(), Watch(tuple(f"{self.root / name}/" for name in ("work", "home", "tmp")))
        start = time.monotonic()
        try:
            with self._environment(), _captured(outcome), _time_limit(LIMIT_S), watched(watch):
                command(outcome)
        except KeyboardInterrupt:
            raise
        except Hang:
            outcome.blame("hang", f"more than {LIMIT_S:g} s")
        except BaseException as error:  # Rust's panics and SystemExit are no Exception
            outcome.blame("traceback", "".join(traceback.format_exception(error)))
        else:
            judge(outcome)
            if (took := time.monotonic() - start) > LIMIT_S:
                outcome.blame("hang", f"{took:.0f} s")
        if watch.signals:
            outcome.blame("signal", ", ".join(watch.signals))
        if watch.connections and not connects:
            outcome.blame("connection", ", ".join(watch.connections))
        if watch.writes or self._others() != self._before:
            outcome.blame("write", ", ".join(watch.writes) or "files beside the input have changed")
        if self._journal:
            self._journal.write(outcome="call" if outcome.code is None else outcome.code, message=outcome.stderr[:500])
        self._report(outcome, text)
        return outcome

    def _report(self, outcome: Outcome, text: str) -> None:
        if not outcome.problems:
            return
        if not self._journal:
            problems = "\n".join(f"{each.kind}: {each.text}" for each in outcome.problems)
            raise AssertionError(f"{text}\n{problems}\nstdout: {outcome.stdout}\nstderr: {outcome.stderr}")
        kept = self._journal.keep(self.work, text)
        for problem in outcome.problems:
            self._journal.write(
                input=self._name, command=text, kind=problem.kind, text=problem.text, stderr=outcome.stderr, kept=kept
            )

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        variables = {"DISTMETA_HOME": self.home, "HOME": self.root / "user", "TMPDIR": self.root / "tmp", "COLUMNS": 80}
        changed = {name: str(value) for name, value in variables.items()}
        with (
            mock.patch.dict(os.environ, changed),
            mock.patch.object(tempfile, "tempdir", changed["TMPDIR"]),
            contextlib.chdir(self.work),
        ):
            for name in ("DISTMETA_DATA", "DISTMETA_RUNS", "MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS"):
                os.environ.pop(name, None)
            yield

    def _others(self) -> list[str]:
        """The files beside the input's own, with their contents."""
        folders = (self.root / "neighbour", self.root / "user", self.root / "tmp")
        files = [path for folder in folders for path in sorted(folder.rglob("*"))]
        names = sorted(path.name for path in self.root.iterdir())
        return [*names, *(f"{path}: {path.read_text() if path.is_file() else '/'}" for path in files)]


# --- judges ---


def _is_one_error(code: int, lines: list[str]) -> bool:
    """One line. With exit code 1, which is that of runs that began well, lines on their progress may precede it."""
    *before, last = lines or [""]
    is_progress = all(line.startswith("step ") for line in before)
    return last.startswith("error: ") and (not before or (code == 1 and is_progress))


def _judge_command(outcome: Outcome) -> None:
    code, lines = outcome.code, outcome.stderr.splitlines()
    named = isinstance(outcome.error, DistmetaError) and not isinstance(outcome.error, UserError)
    if code not in (0, 2) and not (code == 1 and named):
        outcome.blame("exit code", f"{code} after {outcome.error!r}")
    elif code != 0 and not _is_one_error(code, lines):
        outcome.blame("output", f"{len(lines)} lines on stderr with exit code {code}")
    elif any(line.startswith("Traceback") for line in lines):
        outcome.blame("traceback", outcome.stderr)


def _judge_call(outcome: Outcome) -> None:
    if outcome.error is not None and len(str(outcome.error).splitlines()) != 1:
        outcome.blame("output", f"the message has several lines: {outcome.error}")


# --- surroundings ---


@contextlib.contextmanager
def _captured(outcome: Outcome) -> Iterator[None]:
    """Capture what is printed, as a terminal's streams would take it."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with tempfile.TemporaryFile() as native:
        descriptor = os.dup(2)
        os.dup2(native.fileno(), 2)
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
                yield
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)
            native.seek(0)
            outcome.stdout, outcome.stderr = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
            outcome.stderr += native.read().decode(errors="replace")


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` after some seconds; the alarm of pytest-timeout goes on afterwards."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    start, handler = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if rest:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, rest - (time.monotonic() - start)))


def sets(changes: Sequence[str]) -> list[str]:
    """Options of overrides."""
    return [part for change in changes for part in ("--set", change)]
