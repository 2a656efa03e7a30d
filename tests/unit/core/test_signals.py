"""Signals stop a process between two steps, not within one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from distmeta.core.signals import SIGNALS, SignalGuard, Stopped, held, unwrapped


@pytest.fixture(autouse=True)
def _handled() -> Iterator[None]:
    """Whoever started the tests may ignore signals (`nohup` ignores SIGHUP)."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, handler in before.items():
        signal.signal(signum, signal.SIG_DFL if handler is signal.SIG_IGN else handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_raises_at_once_and_names_itself(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=f"stopped by {signum.name}") as caught, SignalGuard():
        send(signum)
    assert caught.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before


def test_a_deferred_signal_waits_for_the_next_check_and_a_second_one_does_not() -> None:
    reached = False
    with SignalGuard() as guard:
        with pytest.raises(Stopped), guard.deferred():
            send(signal.SIGTERM)
            reached = guard.requested
            guard.check()
        assert reached
    with SignalGuard() as guard, pytest.raises(Stopped) as caught, guard.deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert caught.value.signum == signal.SIGTERM


def test_nothing_interrupts_a_shielded_block() -> None:
    with SignalGuard() as guard, pytest.raises(Stopped):
        with guard.shielded():
            send(signal.SIGTERM)
            send(signal.SIGINT)
            guard.check()
        guard.check()


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalGuard() as guard:
            send(signal.SIGHUP)
            assert not guard.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_installed() -> None:
    handlers: list[object] = []

    def work() -> None:
        with SignalGuard():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_after_the_end_nothing_interrupts_the_rest_of_the_process() -> None:
    with SignalGuard() as guard:
        guard.end()
        send(signal.SIGINT)
    send(signal.SIGTERM)
    assert guard.requested


def test_signals_that_are_held_arrive_after_the_block() -> None:
    passed = False
    with SignalGuard(), pytest.raises(Stopped, match="stopped by SIGHUP"), held():
        send(signal.SIGHUP)
        passed = True
    assert passed


def test_a_stop_that_compiled_code_hides_is_found() -> None:
    """A handler that runs within Ray's compiled code: what it raises becomes the cause of a SystemError."""
    with pytest.raises(Stopped) as found, unwrapped():
        try:
            raise Stopped(signal.SIGTERM)
        except Stopped as stopped:
            raise SystemError("wait returned a result with an exception set") from stopped
    assert found.value.exit_code == 128 + signal.SIGTERM
    with pytest.raises(SystemError, match="something else"), unwrapped():
        raise SystemError("something else")


def test_a_stop_within_a_finalizer_is_no_error_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sends:
        def __del__(self) -> None:
            send(signal.SIGINT)

    class Fails:
        def __del__(self) -> None:
            raise ValueError("reported as ever")

    reported: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: reported.append(str(ignored.exc_value)))
    with SignalGuard() as guard:
        Sends()
        Fails()
        assert guard.requested
    assert reported == ["reported as ever"]
