"""Stop on SIGINT, SIGTERM and SIGHUP at a moment when nothing is half done.

    outside            a signal raises `Stopped` at once
    deferred()         the first signal waits for `check()`; another one raises at once
    shielded()         signals wait until the block is left, however many there are

Python runs its handlers in the main thread; elsewhere a guard does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 5
"""A shielded block that takes too long can be left by sending so many signals: the process then ends at once."""


class Stopped(BaseException):
    """A signal asked this process to stop. Not a KeyboardInterrupt, which command line libraries handle themselves.

    Attributes:
        signum: The first signal.
        exit_code: 128 + its number, as shells report it.
        at_check: Raised by `SignalGuard.check`, where nothing is half done.
    """

    def __init__(self, signum: int, *, at_check: bool = False) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.exit_code, self.at_check = signum, 128 + signum, at_check

    def explained(self, hint: str) -> Stopped:
        """The same with a hint for people."""
        self.args = (f"{self}; {hint}",)
        return self


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """A block of compiled code that runs Python's signal handlers, and hides what they raise behind a SystemError."""
    try:
        yield
    except SystemError as error:
        hidden: BaseException | None = error
        while hidden is not None and not isinstance(hidden, Stopped):
            hidden = hidden.__cause__ or hidden.__context__
        if hidden is None:
            raise
        raise hidden from None


class SignalGuard:
    """Turns signals into `Stopped`. A context manager; the handlers before it are restored, except after `end`."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._deferred = self._shielded = False
        self._signum: int | None = None
        self._count = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[signum] = signal.signal(signum, self._handle)
        self._report_ignored, sys.unraisablehook = sys.unraisablehook, self._on_ignored
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._report_ignored
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _on_ignored(self, ignored: Any) -> None:
        """What Python calls for an exception in a finalizer, which it ignores: a signal there is no error to report."""
        if not isinstance(ignored.exc_value, Stopped):
            self._report_ignored(ignored)

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._signum is not None

    @property
    def arrived(self) -> int:
        """Number of signals so far."""
        return self._count

    def check(self) -> None:
        """Raise `Stopped` if a signal has arrived."""
        if self._signum is not None and not self._shielded:
            raise Stopped(self._signum, at_check=True)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that calls `check` often enough."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before

    def shield(self) -> None:
        """From now on nothing may be interrupted: this process cleans up."""
        self._shielded = True

    def end(self) -> None:
        """This process ends: nothing interrupts it any more, nor after the guard's block, what runs at exit."""
        self._shielded, self._before = True, {}

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """A block that must not be interrupted. What arrives meanwhile is raised by the next `check`."""
        before, self._shielded = self._shielded, True
        try:
            yield
        finally:
            self._shielded = before

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first = self._signum is None
        self._signum = signum if self._signum is None else self._signum
        self._count += 1
        if self._shielded:
            if self._count >= _PATIENCE:
                os._exit(128 + self._signum)
        elif not (first and self._deferred):
            raise Stopped(self._signum)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A block in which signals wait, whoever handles them.

    For the import of compiled libraries: an exception in the middle of torch's ends the process with a C++ message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    for number in arrived:
        signal.raise_signal(number)
