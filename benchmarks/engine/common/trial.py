"""A trial: one contender measured in a process of its own, which has its own peak memory and can be killed.

The base level of the peak is the memory after imports, data and one run of a single task with a single inner step. The
peak is that of the runs after the first: memory of compiling is not counted, memory that it leaves allocated is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from statistics import median

import psutil
import torch

from benchmarks.engine.common.contenders import Status, eager_twin, make_contender, reason_of
from benchmarks.engine.common.problems import with_steps
from benchmarks.engine.common.workload import make_workload
from benchmarks.machine import MIB, MemoryMeter, synchronised
from benchmarks.timing import timed
from distmeta.config import RunConfig
from distmeta.core.tensors import global_norm

_POLL_S = 0.05


@dataclass(frozen=True)
class Trial:
    """What to measure: a problem, a contender with its threads and lanes, and the number of runs after the first."""

    config: RunConfig
    contender: str
    threads: int
    lanes: int
    rounds: int


@dataclass(frozen=True)
class TrialResult:
    """The numbers of a trial, or why there are none.

    Attributes:
        first_s: Seconds of the first call.
        seconds_per_task: Median seconds of the later calls, divided by the number of tasks.
        peak_mib: Peak memory above the base level.
        norm: Euclidean norm of the outer gradient, to see that all contenders computed the same.
    """

    status: Status
    reason: str = ""
    first_s: float | None = None
    seconds_per_task: float | None = None
    peak_mib: float | None = None
    norm: float | None = None


def measure(trial: Trial) -> TrialResult:
    torch.set_num_threads(trial.threads)
    workload, device = make_workload(trial.config), trial.config.runtime.device
    small = make_workload(with_steps(trial.config, 1)).only(0)
    make_contender(eager_twin(trial.contender), small, trial.threads, trial.lanes).run()
    meter = MemoryMeter(device)
    meter.start()
    run = make_contender(trial.contender, workload, trial.threads, trial.lanes).run
    started = time.perf_counter()
    norm = global_norm(run())
    first_s = time.perf_counter() - started
    meter.reset_peak()
    complete = synchronised(run, device)
    run_s = median(timed(complete) for _ in range(trial.rounds))
    return TrialResult(Status.OK, "", first_s, run_s / workload.num_tasks, meter.peak_mib(), norm)


def run_trial(trial: Trial, limit_s: float, limit_mib: float = float("inf")) -> TrialResult:
    """Measure in a new process, which is killed after `limit_s` seconds or at `limit_mib` of resident memory."""
    return run_apart(partial(measure, trial), limit_s, limit_mib)


def run_apart(work: Callable[[], TrialResult], limit_s: float, limit_mib: float = float("inf")) -> TrialResult:
    """Do work, which can be pickled, in a new process with the same limits."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=False)
    process.start()
    theirs.close()
    started = time.monotonic()
    try:
        while not ours.poll(_POLL_S):
            if time.monotonic() - started > limit_s:
                return TrialResult(Status.TOO_LONG, f"not done after {limit_s:g} s")
            if _resident_mib(process) > limit_mib:
                return TrialResult(Status.TOO_LARGE, f"more than {limit_mib:g} MiB")
        result: TrialResult = ours.recv()
        process.join()
        return result
    except EOFError:
        process.join()
        return TrialResult(Status.FAILED, f"the process ended with exit code {process.exitcode}")
    finally:
        _kill(process)


def _serve(work: Callable[[], TrialResult], pipe: Connection) -> None:
    with contextlib.redirect_stdout(sys.stderr):  # compilers print
        try:
            result = work()
        except Exception as error:  # a compiler may raise anything; the caller reports it
            result = TrialResult(Status.FAILED, reason_of(error))
    pipe.send(result)


def _resident_mib(process: BaseProcess) -> float:
    try:
        return float(psutil.Process(process.pid).memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0


def _kill(process: BaseProcess) -> None:
    """Kill the process, and those that a compiler has started in it."""
    if process.is_alive():
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.join()
