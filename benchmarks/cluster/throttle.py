"""Slow processes down from outside: they are stopped and continued in turn, so that each gets its share of the time.

    with throttled({pid: 0.125, other: 0.5}): ...      python -m benchmarks.cluster.throttle PERIOD_S PID:SHARE ...

What is stopped notices nothing, as on a machine that is slower or has other guests. A process of its own does it, with
which the caller shares no interpreter lock. The processes are continued when it ends, or when its parent has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from distmeta.core.errors import UserError

PERIOD_S = 0.05
_ACTOR = "ray::WorkerActor"
_GRACE_S, _POLL_S = 10.0, 0.05


def worker_processes(count: int) -> list[int]:
    """Ids of the processes of Ray workers below this one, in order. Those of an executor before may be about to end.

    Raises:
        UserError: There are not so many, on a cluster that this process has not started.
    """
    deadline = time.monotonic() + _GRACE_S
    while (
        len(found := [process.pid for process in psutil.Process().children(recursive=True) if _is_worker(process)])
        != count
    ):
        if time.monotonic() > deadline:
            raise UserError(
                f"{len(found)} processes of workers below this one, not {count}",
                where="RAY_ADDRESS",
                allowed="nothing, so that the cluster is started here",
            )
        time.sleep(_POLL_S)
    return sorted(found)


@contextlib.contextmanager
def throttled(shares: Mapping[int, float], period_s: float = PERIOD_S) -> Iterator[None]:
    """Give processes shares of their time, as long as this is open.

    Args:
        shares: Process id -> share, above 0; from 1 on, the process is left alone.
        period_s: Each is stopped once in this time. Their turns are spread over it.

    Raises:
        ValueError: A share that is not above 0.
    """
    if not all(share > 0 for share in shares.values()):
        raise ValueError(f"shares of the time must be above 0: {list(shares.values())}")
    held = {pid: share for pid, share in shares.items() if share < 1}
    if not held:
        yield
        return
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cluster.throttle", str(period_s), *(f"{p}:{s}" for p, s in held.items())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        yield
    finally:
        process.terminate()
        process.wait(_GRACE_S)
        process.communicate()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "".join(process.cmdline()).startswith(_ACTOR)
    except psutil.Error:
        return False


def plan(shares: Mapping[int, float], period_s: float) -> list[tuple[float, int, signal.Signals]]:
    """When within a period, in order, which process is continued or stopped. Turns begin evenly spread."""
    events = []
    for place, (pid, share) in enumerate(shares.items()):
        begin = place * period_s / len(shares)
        events.append((begin, pid, signal.SIGCONT))
        events.append(((begin + share * period_s) % period_s, pid, signal.SIGSTOP))
    return sorted(events)


def _throttle(shares: Mapping[int, float], period_s: float) -> None:
    """Stop and continue until this process is ended, its parent has gone, or none of the processes is left."""
    events, alive, parent = plan(shares, period_s), set(shares), os.getppid()
    begin = time.monotonic()
    try:
        while alive and os.getppid() == parent:
            for at, pid, sign in events:
                time.sleep(max(0.0, begin + at - time.monotonic()))
                if pid in alive and not _sent(pid, sign):
                    alive.remove(pid)
            begin = max(begin + period_s, time.monotonic() - period_s)
    finally:
        for pid in alive:
            _sent(pid, signal.SIGCONT)


def _sent(pid: int, sign: signal.Signals) -> bool:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return False
    return True


def main(arguments: list[str]) -> None:
    """Throttle the processes that the arguments name."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which then ends this process
    shares = {int(pid): float(share) for pid, _, share in (text.partition(":") for text in arguments[1:])}
    print("begun", flush=True)
    _throttle(shares, float(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
