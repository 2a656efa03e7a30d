"""One measurement in a process of its own: peak memory, seconds of the first call and of the later ones.

A process of its own has a peak of its own, and can be ended: a compilation that takes for ever, a graph that outgrows
the memory. Run as a script, this module reads a `Cell` from standard input and prints one JSON line.

The level that the peak is measured from is that after imports, data and one run of a single task with a single inner
step. The peak is that of the runs after the first one: compiling is not counted, what it leaves behind is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.engine.contenders import eager_twin, make_contender, reason_of
from benchmarks.engine.problems import with_steps
from benchmarks.engine.work import make_work
from benchmarks.machine import MIB, MemoryMeter, synchronise
from benchmarks.timing import median, timed
from distmeta.config import RunConfig
from distmeta.core.tensors import global_norm

_POLL_S = 0.05
OK, FAILED, TOO_LONG, TOO_LARGE = "ok", "failed", "too long", "too large"


@dataclass(frozen=True)
class Cell:
    """What to measure.

    Attributes:
        config_json: The problem's configuration.
        contender: Who.
        threads: Intra-op threads of a peer.
        lanes: Tasks in flight in the engine.
        rounds: Runs after the first.
    """

    config_json: str
    contender: str
    threads: int
    lanes: int
    rounds: int


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        status: `ok`, `failed`, `too long` or `too large`.
        reason: Why there are no numbers.
        first_s: Seconds of the first call.
        run_s: Median seconds of the later ones.
        peak_mib: Peak memory above the start.
        norm: Euclidean norm of the outer signal, for a look at whether all computed the same.
    """

    status: str
    reason: str = ""
    first_s: float | None = None
    run_s: float | None = None
    peak_mib: float | None = None
    norm: float | None = None


def measure(cell: Cell) -> Measured:
    """Measure in this process."""
    torch.set_num_threads(cell.threads)
    config = RunConfig.model_validate_json(cell.config_json)
    work, device = make_work(config), config.runtime.device
    small = make_work(with_steps(config, 1)).first_task()
    make_contender(eager_twin(cell.contender), small, cell.threads, cell.lanes).run()
    meter = MemoryMeter(device)
    meter.start()
    run = make_contender(cell.contender, work, cell.threads, cell.lanes).run

    def complete() -> None:
        run()
        synchronise(device)

    started = time.perf_counter()
    norm = global_norm(run())
    first_s = time.perf_counter() - started
    meter.forget()
    seconds = [timed(complete) for _ in range(cell.rounds)]
    return Measured(OK, first_s=first_s, run_s=median(seconds), peak_mib=meter.peak_mib(), norm=norm)


def run_cell(cell: Cell, limit_s: float, limit_mib: float | None = None) -> Measured:
    """Measure in a fresh process.

    Args:
        cell: What to measure.
        limit_s: Seconds after which the process is ended.
        limit_mib: Resident memory at which it is ended.

    Returns:
        The numbers, or why there are none.
    """
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "benchmarks.engine.cell"]
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(asdict(cell)).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
        )
        try:
            over = _wait(process, limit_s, limit_mib)
        finally:
            _end(process)
        if over is not None:
            return over
        stdout.seek(0)
        stderr.seek(0)
        lines, errors = stdout.read().decode().splitlines(), stderr.read().decode(errors="replace").splitlines()
    if process.returncode != 0 or not lines:
        said = next((line.strip() for line in reversed(errors) if line.strip()), f"exit code {process.returncode}")
        return Measured(FAILED, said)
    found: dict[str, Any] = json.loads(lines[-1])
    return Measured(**found)


def _wait(process: subprocess.Popen[bytes], limit_s: float, limit_mib: float | None) -> Measured | None:
    """Wait for the end; return what is wrong if a limit comes first."""
    started = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - started > limit_s:
            return Measured(TOO_LONG, f"not done after {limit_s:g} s")
        if limit_mib is not None and _resident_mib(process.pid) > limit_mib:
            return Measured(TOO_LARGE, f"more than {limit_mib:g} MiB")
        time.sleep(_POLL_S)
    return None


def _resident_mib(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process, and those that a compiler has started in it."""
    if process.poll() is not None:
        return
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.kill()
    process.wait()


def main() -> None:
    """Measure what standard input asks for."""
    cell = Cell(**json.loads(sys.stdin.read()))
    try:
        result = measure(cell)
    except Exception as error:  # a compiler may raise anything; whoever asked wants to know what
        result = Measured(FAILED, reason_of(error))
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
