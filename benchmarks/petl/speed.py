"""`distmeta bench petl`: the engine's strategies beside a loop over modules of `peft`, on the same tasks.

    reference   the peer in float64, on the first tasks of the row
    verify      each contender's gradient of these tasks is compared with the reference, and that of all tasks of the
                row with the peer's in float32; one that fails or disagrees is not timed
    time        interleaved rounds; the peer runs with the better of one and all intra-op threads, as a trial on the
                first tasks has it; the engine has as many lanes, or (`shared`) one lane with as many

Besides seconds, each run's processor time is measured: it is what remains comparable on a machine that others use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from benchmarks.engine.common.agreement import TOLERANCE, Agreement, compare
from benchmarks.engine.common.contenders import Status, reason_of
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.machine import synchronised
from benchmarks.petl.peers import PEERS, PEFT_EAGER, by_peft, left_out, pad_id_of, padded_places
from benchmarks.petl.problems import Problem
from benchmarks.petl.results import Entry, Row
from benchmarks.report import progress
from benchmarks.timing import interleaved, timed
from distmeta.config import EngineConfig, RunConfig
from distmeta.core.errors import UserError, nearest
from distmeta.core.types import Params
from distmeta.engine.auto import choose_by_shapes
from distmeta.engine.lanes import lanes_for

SHARED = "shared"
"""The contender that computes one task at a time with all threads (`engine.threads_per_chunk`)."""
STRATEGIES = ("loop", "vmap", "auto", SHARED)
CONTENDERS = (*PEERS, "loop", "vmap", SHARED)
CHECKED_TASKS = 2
MIN_ROUNDS = 2
Run = Callable[[], Params]


@dataclass(frozen=True)
class Settings:
    """How to measure, by the options of the command.

    Attributes:
        contenders: The peer is always added, because ratios are relative to it.
        row_s: Seconds that the timing of a row may take; there are at least two rounds.
    """

    contenders: tuple[str, ...] = CONTENDERS
    rounds: int = 5
    threads: int = 2
    row_s: float = 60.0


@dataclass
class _Meter:
    """Runs a contender, and keeps the processor seconds of each run."""

    run: Run
    cpu_s: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        before = time.process_time()
        self.run()
        self.cpu_s.append(time.process_time() - before)


def check_contenders(names: list[str], where: str) -> tuple[str, ...]:
    """The names as given: peers, strategies, and strategies with a chunk (`vmap/4`).

    Raises:
        UserError: One is unknown; `where` is the option that names it.
    """
    for name in names:
        strategy, slash, chunk = name.partition("/")
        has_chunk = strategy == "vmap" and chunk.isdecimal() and 0 < int(chunk) <= 10**6
        if name not in (*PEERS, *STRATEGIES) and not (slash and has_chunk):
            known = (*PEERS, *STRATEGIES, "vmap/4")
            raise UserError(f"unknown contender '{name}'", where=where, allowed=nearest(name, known))
    return tuple(names)


def bench_problem(problem: Problem, settings: Settings) -> Row:
    """Verify and time the contenders on one problem."""
    workload = started_workload(problem)
    few = first_tasks(workload, CHECKED_TASKS)
    torch.set_num_threads(settings.threads)
    reference = by_peft(few.as_type(torch.float64))()
    names = list(dict.fromkeys((PEFT_EAGER, *settings.contenders)))
    entries, runs = {}, {}
    expected: Params | None = None
    for name in names:
        entries[name], run = _verify(name, workload, few, reference, settings)
        if run is not None:  # a warm-up, too
            gradient = run()
            expected = gradient if expected is None else expected
            entries[name] = _judged(entries[name], compare(gradient, expected))
        if run is not None and entries[name].status == Status.OK:
            runs[name] = _Meter(synchronised_run(run, problem.device))
        else:
            progress(f"{problem.name}: {name}: {entries[name].status}: {entries[name].reason}")
    rounds = _rounds(runs, settings)
    progress(f"{problem.name}: timing {rounds} rounds of {len(runs)}")
    for meter in runs.values():
        meter.cpu_s.clear()
    seconds = interleaved(runs, rounds)
    timed_entries = tuple(
        replace(entry, seconds=tuple(seconds[name]), cpu_s=tuple(runs[name].cpu_s)) if name in runs else entry
        for name, entry in entries.items()
    )
    size = (problem.way, problem.shots, problem.steps)
    tokens = _num_tokens(workload)
    return Row(problem.name, problem.about, problem.order, problem.tasks, *size, tokens, timed_entries)


def started_workload(problem: Problem, config: RunConfig | None = None) -> Workload:
    """The workload, with parts that do something: where B of a LoRA is zero, half of the gradient is zero.

    Args:
        problem: Tasks, network and method.
        config: Instead of the problem's own.
    """
    workload = make_workload(config or problem.config)
    rng = torch.Generator().manual_seed(0)
    meta = {
        name: 0.02 * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype).to(tensor.device)
        if name.endswith("lora_B") or name.startswith("head.")
        else tensor
        for name, tensor in workload.meta.items()
    }
    return replace(workload, meta=meta)


def first_tasks(workload: Workload, count: int) -> Workload:
    """The same with only the first tasks."""
    return replace(workload, episodes=workload.episodes.select(range(min(count, workload.num_tasks))))


def engine_run(name: str, workload: Workload, threads: int) -> Run:
    """The engine's outer gradient, by the name of a contender."""
    strategy, _, chunk = name.partition("/")
    shared = threads if strategy == SHARED else 1
    values = workload.config.engine.model_dump() | {
        "strategy": "loop" if strategy == SHARED else strategy,
        "chunk": int(chunk) if chunk else None,
        "threads_per_chunk": shared,
    }
    lanes = lanes_for(workload.config.runtime.device, threads, shared)
    config = EngineConfig.model_validate(values)
    if strategy == "auto":
        device = workload.config.runtime.device
        config = choose_by_shapes(config, workload.meta, workload.episodes, device=device).apply(config)
    engine = workload.engine(config, lanes)

    def run() -> Params:
        torch.set_num_threads(shared)  # with one lane, the calling thread computes
        return workload.gradient(engine)

    return run


def synchronised_run(run: Run, device: str) -> Run:
    """A run that returns after the device has finished it."""
    found: Params = {}
    complete = synchronised(lambda: found.update(run()), device)

    def synchronised_() -> Params:
        complete()
        return found

    return synchronised_


def _verify(
    name: str, workload: Workload, few: Workload, reference: Params, settings: Settings
) -> tuple[Entry, Run | None]:
    """Make a contender and compare its gradient of the first tasks with the reference."""
    if name in PEERS and (reason := left_out(name, workload)) is not None:
        return Entry(name, Status.LEFT_OUT, reason), None
    try:
        threads, run, gradient = _made(name, workload, few, settings)
    except Exception as error:  # a library may raise anything; the other contenders go on
        return Entry(name, Status.FAILED, reason_of(error)), None
    agreement = compare(gradient, reference)
    entry = Entry(name, Status.OK, "", threads, agreement, places=_places(name, workload))
    judged = _judged(entry, agreement)
    return judged, run if judged.status == Status.OK else None


def _made(name: str, workload: Workload, few: Workload, settings: Settings) -> tuple[int, Run, Params]:
    """Threads, run on all tasks, and gradient of the first ones."""
    if name not in PEERS:
        small = engine_run(name, few, settings.threads)
        return settings.threads, engine_run(name, workload, settings.threads), small()
    attention = name.partition("/")[2] or "eager"
    small, whole = by_peft(few, attention), by_peft(workload, attention)
    threads = _better_threads(small, settings.threads)
    return threads, _with_threads(whole, threads), small()


def _better_threads(run: Run, most: int) -> int:
    """The number of intra-op threads, 1 or `most`, with which a run is faster: the best of three interleaved runs."""
    counts = sorted({1, most})
    runs = {count: _with_threads(run, count) for count in counts}
    runs[most]()
    seconds = interleaved(runs, 3) if len(counts) > 1 else {1: [0.0]}
    return min(counts, key=lambda count: min(seconds[count]))


def _with_threads(run: Run, threads: int) -> Run:
    def run_with_threads() -> Params:
        torch.set_num_threads(threads)
        return run()

    return run_with_threads


def _judged(entry: Entry, agreement: Agreement) -> Entry:
    if agreement.holds:
        return entry
    reason = f"relative error {agreement.error:.1e}; at most {TOLERANCE:g}"
    return replace(entry, status=Status.DISAGREES, reason=reason)


def _rounds(runs: Mapping[str, Callable[[], object]], settings: Settings) -> int:
    """As many rounds as asked for, or as fit into the time of a row."""
    round_s = sum(timed(run) for run in runs.values()) if settings.rounds > MIN_ROUNDS else 0.0
    return min(settings.rounds, max(MIN_ROUNDS, int(settings.row_s / max(round_s, 1e-6))))


def _num_tokens(workload: Workload) -> int:
    pad_id = pad_id_of(workload)
    return sum(int((batch.inputs != pad_id).sum()) for batch in workload.episodes.roles.values())


def _places(name: str, workload: Workload) -> int:
    """Tokens of one pass over all texts, padding included."""
    if name in PEERS:
        return padded_places(workload)
    return sum(count for sizes in workload.episodes.sizes or () for _, count in sizes.places)
