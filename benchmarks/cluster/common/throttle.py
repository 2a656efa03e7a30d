"""Throttle processes from outside: each is stopped and continued, so that it gets a share of the time.

    with throttled({pid: 0.125, other_pid: 0.5}): ...

A stopped process notices nothing, as on a slower machine. This module, run as a script with the arguments
`PERIOD_S PID:SHARE ...`, sends the signals from a process of its own, so that the caller's interpreter lock does not
delay them. It continues all processes when it ends, at the latest when its parent has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import psutil

from benchmarks.scripts import CHECKOUT
from distmeta.core.errors import UserError

PERIOD_S = 0.05
_ACTOR = "ray::WorkerActor"
_GRACE_S, _POLL_S = 10.0, 0.05


@contextlib.contextmanager
def throttled_workers(count: int, share: float, slowdown: float = 1.0) -> Iterator[None]:
    """Within the context, the Ray workers below this process have a share of a core; one of them share / slowdown."""
    shares = dict.fromkeys(worker_processes(count), share)
    shares[next(iter(shares))] /= slowdown
    with throttled(shares):
        yield


def worker_processes(count: int) -> list[int]:
    """Process ids of the Ray workers below this process, in order. Waits for those of an earlier executor to end.

    Raises:
        UserError: Their number differs, as on a cluster that this process has not started.
    """
    deadline = time.monotonic() + _GRACE_S
    while len(pids := _worker_pids()) != count:
        if time.monotonic() > deadline:
            raise UserError(
                f"{len(pids)} worker processes below this one, not {count}",
                where="RAY_ADDRESS",
                allowed="unset, so that the cluster is started here",
            )
        time.sleep(_POLL_S)
    return pids


def _worker_pids() -> list[int]:
    pids = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()).startswith(_ACTOR):
                pids.append(process.pid)
    return sorted(pids)


@contextlib.contextmanager
def throttled(shares: Mapping[int, float], period_s: float = PERIOD_S) -> Iterator[None]:
    """Give processes shares of the time within the context: process id -> share above 0, no limit from 1 on.

    Each is stopped once in a period. Their turns are spread over it.
    """
    if not all(share > 0 for share in shares.values()):
        raise ValueError(f"shares of the time must be above 0: {list(shares.values())}")
    limited = [f"{pid}:{share}" for pid, share in shares.items() if share < 1]
    if not limited:
        yield
        return
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster.common.throttle", str(period_s), *limited],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        yield
    finally:
        process.terminate()
        process.wait(_GRACE_S)
        process.communicate()


def plan(shares: Mapping[int, float], period_s: float) -> list[tuple[float, int, signal.Signals]]:
    """The signals of a period in order: seconds from its start, process id, signal. Turns start evenly spread."""
    signals = []
    for place, (pid, share) in enumerate(shares.items()):
        start_s = place * period_s / len(shares)
        signals.append((start_s, pid, signal.SIGCONT))
        signals.append(((start_s + share * period_s) % period_s, pid, signal.SIGSTOP))
    return sorted(signals)


def _throttle(shares: Mapping[int, float], period_s: float) -> None:
    """Send signals until this process is ended, its parent has ended, or none of the processes is left."""
    signals, alive, parent = plan(shares, period_s), set(shares), os.getppid()
    start = time.monotonic()
    try:
        while alive and os.getppid() == parent:
            for at_s, pid, number in signals:
                time.sleep(max(0.0, start + at_s - time.monotonic()))
                if pid in alive and not _send(pid, number):
                    alive.remove(pid)
            start = max(start + period_s, time.monotonic() - period_s)
    finally:
        for pid in alive:
            _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which then ends this process
    print("started", flush=True)
    _throttle({int(pid): float(share) for pid, share in (text.split(":") for text in sys.argv[2:])}, float(sys.argv[1]))
