"""`distmeta bench engine`: the engine's strategies beside the peers, on the same tasks, in one process.

    reference   the plain loop in float64, task by task
    verify      every contender computes the gradient of all tasks, and of each; one that fails, or whose median error
                over tasks is too large, is not timed
    time        interleaved rounds; peers run with one intra-op thread and with all, and the better counts; the engine
                has as many lanes

A strategy that compiles is first tried in a process of its own, which is killed when it takes too long; the seconds of
its first call are from there. With `memory` every contender is, and its peak memory is from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from benchmarks.engine.common.agreement import TOLERANCE, by_task, compare
from benchmarks.engine.common.contenders import Status, is_compiled, make_contender, reason_of, thread_counts
from benchmarks.engine.common.peers import PEERS, PLAIN_LOOP, left_out
from benchmarks.engine.common.problems import Problem
from benchmarks.engine.common.trial import Trial, TrialResult, run_trial
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.engine.speed_results import Entry, Row
from benchmarks.machine import count_flop, synchronised
from benchmarks.peaks import peak_gflops
from benchmarks.report import progress
from benchmarks.timing import interleaved, repeats_for, timed
from distmeta.config import DisplacementConfig, EngineConfig
from distmeta.core.types import Params

_TRIAL_ROUNDS = 2


@dataclass(frozen=True)
class Settings:
    """How to measure, by the options of the command.

    Attributes:
        contenders: The plain loop is always added, because ratios are relative to it.
        threads: Threads of the peers, lanes of the engine.
        peak_side: Size of the kernels that give the machine's peak (`benchmarks.peaks`).
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
    peak_before = peak_gflops(settings.threads, device, settings.peak_side)
    workload = make_workload(problem.config)
    torch.set_num_threads(settings.threads)
    exact = workload.as_type(torch.float64)
    reference = [PEERS[PLAIN_LOOP](exact.only(task))() for task in range(workload.num_tasks)]
    flop = needed_flop(workload) * workload.num_tasks
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
    peak_after = peak_gflops(settings.threads, device, settings.peak_side)
    return Row(problem.name, problem.about, workload.num_tasks, flop / 1e9, (peak_before, peak_after), entries)


def needed_flop(workload: Workload) -> int:
    """Operations of one task: the fewer of the plain loop's, which go torch's way, and of the engine's."""
    one = workload.only(0)
    engine = one.engine(EngineConfig(strategy="loop", memory="unrolled", dtype=one.config.engine.dtype))
    return min(count_flop(PEERS[PLAIN_LOOP](one)), count_flop(lambda: one.gradient(engine)))


def _verify(
    name: str, threads: int, workload: Workload, reference: Sequence[Params], settings: Settings
) -> _Verified | Entry:
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
    whole = {each: torch.stack([one[each] for one in reference]).sum(0) for each in reference[0]}
    agreement = compare(gradient, whole, with_silent=with_silent)
    torch.set_num_threads(threads if name in PEERS else 1)
    tasks = by_task([compare(contender.of_task(t), each, with_silent=with_silent) for t, each in enumerate(reference)])
    peak_mib = trial.peak_mib if settings.memory else None
    first_s, choice = trial.first_s or first_s, contender.choice
    entry = Entry(name, Status.OK, "", threads, agreement, tasks, first_s, peak_mib=peak_mib, choice=choice)
    if not tasks.holds:
        silent = "" if tasks.silent is None else f", {tasks.silent:.1e} where the true one is zero"
        reason = f"median relative error {tasks.median:.1e}{silent}; at most {TOLERANCE:g}"
        return replace(entry, status=Status.DISAGREES, reason=reason)
    run = synchronised(contender.run, device)
    return _Verified(entry, run, repeats_for(timed(run)))


def _best(name: str, verified: dict[tuple[str, int], _Verified], seconds: dict[tuple[str, int], list[float]]) -> Entry:
    """The entry of a contender at its better number of threads."""
    key = min((key for key in verified if key[0] == name), key=lambda key: median(seconds[key]))
    return replace(verified[key].entry, seconds=tuple(seconds[key]))
