"""Processes that get a share of their time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.cluster.common import throttle
from benchmarks.cluster.common.throttle import plan, throttled, worker_processes
from distmeta.core.errors import UserError

CONT, STOP = signal.SIGCONT, signal.SIGSTOP


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def throttles() -> list[psutil.Process]:
    return [process for process in psutil.Process().children() if any("throttle" in part for part in process.cmdline())]


def awaited(process: psutil.Process, *, stopped: bool) -> bool:
    deadline = time.monotonic() + 60.0
    while (process.status() == psutil.STATUS_STOPPED) != stopped:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_turns_are_spread_over_the_period() -> None:
    assert plan({7: 0.125, 8: 0.75}, 8.0) == [(0.0, 7, CONT), (1.0, 7, STOP), (2.0, 8, STOP), (4.0, 8, CONT)]


def test_a_process_is_stopped_and_continued_and_left_running(sleeper: psutil.Process) -> None:
    with throttled({sleeper.pid: 0.5}, period_s=0.2):
        assert awaited(sleeper, stopped=True)
        assert awaited(sleeper, stopped=False)
        assert awaited(sleeper, stopped=True)
        assert len(throttles()) == 1
    assert sleeper.status() != psutil.STATUS_STOPPED
    assert throttles() == []


def test_a_process_that_has_ended_is_ignored() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with throttled({process.pid: 0.5}):
        pass


def test_whole_shares_need_no_throttle(sleeper: psutil.Process) -> None:
    with throttled({sleeper.pid: 1.0}):
        assert throttles() == []


def test_a_share_must_be_above_0() -> None:
    with pytest.raises(ValueError, match="above 0"), throttled({1: 0.0}):
        pass


def test_workers_of_another_cluster_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_GRACE_S", 0.1)
    with pytest.raises(UserError, match="0 worker processes below this one, not 2"):
        worker_processes(2)
