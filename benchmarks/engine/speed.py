"""`distmeta bench engine`: distmeta's strategies beside the peers, on the same tasks, in one process.

A row goes through four stages. The reference is the plain loop in float64. Every contender computes the meta-gradient
once: who fails, or disagrees with the reference (on the sum over tasks, or else on the median task), is not timed.
Then all are timed in interleaved rounds. Peers run with one intra-op thread and with all, and the better counts; the
engine has as many lanes.

A strategy that compiles is tried in a process of its own first, which can be ended when it takes too long; the seconds
of its first call are from there. With `memory`, all contenders are, and their peak is from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.engine.agreement import TOLERANCE, Agreement, compare
from benchmarks.engine.cell import Cell, Measured, run_cell
from benchmarks.engine.contenders import Made, is_compiled, make_contender, reason_of, thread_counts
from benchmarks.engine.peers import PEERS, PLAIN_LOOP, left_out
from benchmarks.engine.problems import Problem
from benchmarks.engine.results import DISAGREES, FAILED, LEFT_OUT, OK, Entry, Row
from benchmarks.engine.work import Work, make_work
from benchmarks.machine import count_flop, matrix_peak_gflops, synchronise
from benchmarks.timing import interleaved, median, repeats_for, timed
from distmeta.config import DisplacementConfig
from distmeta.core.types import Params

_LOG = logging.getLogger(__name__)
_CELL_ROUNDS = 2
_SINGLE_TASKS = 5


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        contenders: Who takes part; the plain loop always does, because ratios are to it.
        rounds: Timed rounds.
        threads: Threads of the peers, lanes of the engine.
        memory: Measure peak memory, too.
        limit_s: Seconds that a contender's own process may take.
        peak_side: Rows and columns of the matrices whose product gives the machine's peak.
    """

    contenders: tuple[str, ...]
    rounds: int = 7
    threads: int = 2
    memory: bool = False
    limit_s: float = 300.0
    peak_side: int = 2048


@dataclass(frozen=True)
class _Admitted:
    """A contender that computes the right gradient, with a number of threads."""

    entry: Entry
    run: Callable[[], None]
    repeats: int


def bench_problem(problem: Problem, settings: Settings) -> Row:
    """Verify and time all contenders on a problem."""
    device = problem.config.runtime.device
    before = matrix_peak_gflops(settings.threads, device, settings.peak_side)
    work = make_work(problem.config)
    torch.set_num_threads(settings.threads)
    reference = PEERS[PLAIN_LOOP](work.as_type(torch.float64))()
    flop = count_flop(PEERS[PLAIN_LOOP](work.first_task())) * work.num_tasks
    names = [PLAIN_LOOP, *(name for name in settings.contenders if name != PLAIN_LOOP)]
    admitted: dict[tuple[str, int], _Admitted] = {}
    refused: dict[str, Entry] = {}
    for name in names:
        for threads in thread_counts(name, settings.threads):
            if name in refused:
                continue
            found = _admit(name, threads, work, reference, settings)
            if isinstance(found, _Admitted):
                admitted[name, threads] = found
            else:
                refused[name] = found
                _LOG.info("%s: %s: %s: %s", problem.name, name, found.status, found.reason)
    admitted = {key: one for key, one in admitted.items() if key[0] not in refused}
    _LOG.info("%s: timing %d rounds of %d", problem.name, settings.rounds, len(admitted))
    seconds = interleaved(
        {key: one.run for key, one in admitted.items()},
        settings.rounds,
        {key: one.repeats for key, one in admitted.items()},
    )
    entries = [refused[name] if name in refused else _best(name, admitted, seconds) for name in names]
    after = matrix_peak_gflops(settings.threads, device, settings.peak_side)
    return Row(problem.name, problem.about, work.num_tasks, flop / 1e9, (before, after), tuple(entries))


def _admit(name: str, threads: int, work: Work, reference: Params, settings: Settings) -> _Admitted | Entry:
    """Make a contender, try it, and compare its gradient with the reference."""
    reason = left_out(name, work.config) if name in PEERS else None
    if reason is not None:
        return Entry(name, LEFT_OUT, reason)
    device = work.config.runtime.device
    tried = Measured(OK)
    try:
        made = make_contender(name, work, threads, settings.threads)
        if settings.memory or is_compiled(name):
            tried = _try_apart(name, threads, work, settings)
            if tried.status != OK:
                return Entry(name, FAILED, f"in a process of its own: {tried.reason}", threads)
        started = time.perf_counter()
        signal = made.run()
        synchronise(device)
        first_s = time.perf_counter() - started
    except Exception as error:  # a compiler may raise anything; the other contenders go on
        return Entry(name, FAILED, reason_of(error), threads)
    # What an inner Adam makes of a gradient that is zero but for rounding has no meaning.
    meaningful = not isinstance(work.config.algorithm.estimator, DisplacementConfig)
    agreement = compare(signal, reference, with_silent=meaningful)
    if not agreement.holds and name != "compiled_vmap":  # which would have to compile for one task
        agreement = _median_task(name, threads, work, settings, meaningful)
    peak_mib = tried.peak_mib if settings.memory else None
    entry = Entry(name, OK, "", threads, agreement, tried.first_s or first_s, peak_mib=peak_mib, choice=made.choice)
    if not agreement.holds:
        silent = "" if agreement.silent_error is None else f", {agreement.silent_error:.1e} where the true one is zero"
        return replace(
            entry, status=DISAGREES, reason=f"relative error {agreement.error:.1e}{silent}; at most {TOLERANCE:g}"
        )
    run = _complete(made, device)
    return _Admitted(entry, run, repeats_for(timed(run)))


def _median_task(name: str, threads: int, work: Work, settings: Settings, with_silent: bool) -> Agreement:
    """The agreement of the task in the middle.

    In drawings, thousands of pixels are one and the same number. Where a ReLU's input is nearly zero for these,
    rounding decides about all of them at once, and one task of many spoils the sum, in float32 whoever computes it.
    """
    found = []
    for t in range(min(work.num_tasks, _SINGLE_TASKS)):
        single = work.only(t)
        reference = PEERS[PLAIN_LOOP](single.as_type(torch.float64))()
        signal = make_contender(name, single, threads, settings.threads).run()
        found.append(compare(signal, reference, with_silent=with_silent))
    return sorted(found, key=lambda one: one.error)[len(found) // 2]


def _complete(made: Made, device: str) -> Callable[[], None]:
    def run() -> None:
        made.run()
        synchronise(device)

    return run


def _try_apart(name: str, threads: int, work: Work, settings: Settings) -> Measured:
    """Measure a contender in a process of its own."""
    cell = Cell(work.config.model_dump_json(), name, threads, settings.threads, _CELL_ROUNDS)
    return run_cell(cell, settings.limit_s)


def _best(name: str, admitted: dict[tuple[str, int], _Admitted], seconds: dict[tuple[str, int], list[float]]) -> Entry:
    """The entry of a contender at its better number of threads."""
    key = min((key for key in admitted if key[0] == name), key=lambda key: median(seconds[key]))
    return replace(admitted[key].entry, seconds=tuple(seconds[key]))
