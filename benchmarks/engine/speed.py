"""`distmeta bench engine`: the engine's strategies beside the peers, on the same tasks, in one process.

    reference   the plain loop in float64
    verify      every contender computes the gradient once; one that fails, or disagrees with the reference on the sum
                over tasks and on the median task, is not timed
    time        interleaved rounds; peers run with one intra-op thread and with all, and the better counts; the engine
                has as many lanes

A strategy that compiles is first tried in a process of its own, which is killed when it takes too long; the seconds of
its first call are from there. With `memory` every contender is, and its peak memory is from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch

from benchmarks.engine.common.agreement import TOLERANCE, Agreement, compare
from benchmarks.engine.common.contenders import Status, is_compiled, make_contender, reason_of, thread_counts
from benchmarks.engine.common.peers import PEERS, PLAIN_LOOP, left_out
from benchmarks.engine.common.problems import Problem
from benchmarks.engine.common.trial import Trial, TrialResult, run_trial
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.engine.speed_results import Entry, Row
from benchmarks.machine import count_flop, matrix_peak_gflops, synchronised
from benchmarks.report import progress
from benchmarks.timing import interleaved, repeats_for, timed
from distmeta.config import DisplacementConfig
from distmeta.core.types import Params

_TRIAL_ROUNDS = 2
_SINGLE_TASKS = 5


@dataclass(frozen=True)
class Settings:
    """How to measure, by the options of the command.

    Attributes:
        contenders: The plain loop is always added, because ratios are relative to it.
        threads: Threads of the peers, lanes of the engine.
        peak_side: Rows and columns of the matrices whose product gives the machine's peak.
    """

    contenders: tuple[str, ...]
    rounds: int = 7
    threads: int = 2
    memory: bool = False
    limit_s: float = 300.0
    peak_side: int = 2048


@dataclass(frozen=True)
class _Verified:
    """A contender that computes the right gradient, with a number of threads."""

    entry: Entry
    run: Callable[[], None]
    repeats: int


def bench_problem(problem: Problem, settings: Settings) -> Row:
    device = problem.config.runtime.device
    peak_before = matrix_peak_gflops(settings.threads, device, settings.peak_side)
    workload = make_workload(problem.config)
    torch.set_num_threads(settings.threads)
    reference = PEERS[PLAIN_LOOP](workload.as_type(torch.float64))()
    flop = count_flop(PEERS[PLAIN_LOOP](workload.only(0))) * workload.num_tasks
    names = list(dict.fromkeys((PLAIN_LOOP, *settings.contenders)))
    verified: dict[tuple[str, int], _Verified] = {}
    refused: dict[str, Entry] = {}
    for name in names:
        for threads in thread_counts(name, settings.threads):
            if name in refused:
                continue
            outcome = _verify(name, threads, workload, reference, settings)
            if isinstance(outcome, _Verified):
                verified[name, threads] = outcome
            else:
                refused[name] = outcome
                progress(f"{problem.name}: {name}: {outcome.status}: {outcome.reason}")
    verified = {key: contender for key, contender in verified.items() if key[0] not in refused}
    progress(f"{problem.name}: timing {settings.rounds} rounds of {len(verified)}")
    seconds = interleaved(
        {key: contender.run for key, contender in verified.items()},
        settings.rounds,
        {key: contender.repeats for key, contender in verified.items()},
    )
    entries = tuple(refused[name] if name in refused else _best(name, verified, seconds) for name in names)
    peak_after = matrix_peak_gflops(settings.threads, device, settings.peak_side)
    return Row(problem.name, problem.about, workload.num_tasks, flop / 1e9, (peak_before, peak_after), entries)


def _verify(name: str, threads: int, workload: Workload, reference: Params, settings: Settings) -> _Verified | Entry:
    """Make a contender, try it, and compare its gradient with the reference."""
    reason = left_out(name, workload.config) if name in PEERS else None
    if reason is not None:
        return Entry(name, Status.LEFT_OUT, reason)
    device = workload.config.runtime.device
    trial = TrialResult(Status.OK)
    try:
        contender = make_contender(name, workload, threads, settings.threads)
        if settings.memory or is_compiled(name):
            trial = run_trial(Trial(workload.config, name, threads, settings.threads, _TRIAL_ROUNDS), settings.limit_s)
            if trial.status != Status.OK:
                return Entry(name, Status.FAILED, f"in a process of its own: {trial.reason}", threads)
        gradient: Params = {}
        started = time.perf_counter()
        synchronised(lambda: gradient.update(contender.run()), device)()
        first_s = time.perf_counter() - started
    except Exception as error:  # a compiler may raise anything; the other contenders go on
        return Entry(name, Status.FAILED, reason_of(error), threads)
    # An inner Adam turns the rounding errors of a zero gradient into steps of full size.
    with_silent = not isinstance(workload.config.algorithm.estimator, DisplacementConfig)
    agreement = compare(gradient, reference, with_silent=with_silent)
    if not agreement.holds and name != "compiled_vmap":  # it would have to compile for a single task
        agreement = _median_task(name, threads, workload, settings, with_silent)
    peak_mib = trial.peak_mib if settings.memory else None
    first_s, choice = trial.first_s or first_s, contender.choice
    entry = Entry(name, Status.OK, "", threads, agreement, first_s, peak_mib=peak_mib, choice=choice)
    if not agreement.holds:
        silent = "" if agreement.silent_error is None else f", {agreement.silent_error:.1e} where the true one is zero"
        reason = f"relative error {agreement.error:.1e}{silent}; at most {TOLERANCE:g}"
        return replace(entry, status=Status.DISAGREES, reason=reason)
    run = synchronised(contender.run, device)
    return _Verified(entry, run, repeats_for(timed(run)))


def _median_task(name: str, threads: int, workload: Workload, settings: Settings, with_silent: bool) -> Agreement:
    """The agreement on single tasks: that of the median error.

    Thousands of pixels of a drawing are the same number. Where a ReLU's input is nearly zero for these, rounding
    decides about all of them at once, and one task of many spoils the sum, for any contender in float32.
    """
    agreements = []
    for t in range(min(workload.num_tasks, _SINGLE_TASKS)):
        single = workload.only(t)
        reference = PEERS[PLAIN_LOOP](single.as_type(torch.float64))()
        gradient = make_contender(name, single, threads, settings.threads).run()
        agreements.append(compare(gradient, reference, with_silent=with_silent))
    return sorted(agreements, key=lambda agreement: agreement.error)[len(agreements) // 2]


def _best(name: str, verified: dict[tuple[str, int], _Verified], seconds: dict[tuple[str, int], list[float]]) -> Entry:
    """The entry of a contender at its better number of threads."""
    key = min((key for key in verified if key[0] == name), key=lambda key: median(seconds[key]))
    return replace(verified[key].entry, seconds=tuple(seconds[key]))
