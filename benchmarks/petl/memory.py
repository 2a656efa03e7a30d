"""`distmeta bench petl --memory`: peak memory by the number of tasks, and by the number of inner steps.

    tasks   T tasks of one size, all in one chunk of `vmap`, or one after the other by `loop`: bytes of each further
            task, beside what one task needs alone (its adapter and its activations: the peak of T = 1)
    steps   exact second order through inner Adam steps on a LoRA, with `engine.memory = flat`: 5 and 100 steps

Every point has a process of its own; its peak is counted above the memory in use after the network is loaded and a
first run of one task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from benchmarks.engine.common.contenders import Status
from benchmarks.engine.common.trial import TrialResult, run_apart
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.machine import MIB, MemoryMeter, synchronised
from benchmarks.petl.problems import Problem
from benchmarks.petl.speed import engine_run, first_tasks, started_workload
from benchmarks.report import Goal, progress
from benchmarks.timing import timed
from distmeta.config import GradientConfig, RunConfig
from distmeta.core.tensors import global_norm

MAX_GROWTH = 1.5
MAX_SHARE = 1.1
STEPS = (5, 100)
ADAM_LR = 1e-3
_POOL = 16
"""Tasks that are drawn for each one that is needed, to have enough of one size."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        kind: `tasks` or `steps`.
        contender: A strategy.
        count: Number of tasks or of inner steps.
        adapter_bytes: Bytes of the tuned parameters of one task.
    """

    kind: str
    contender: str
    count: int
    result: TrialResult
    adapter_bytes: int

    @property
    def peak_bytes(self) -> float | None:
        return None if self.result.peak_mib is None else self.result.peak_mib * MIB

    def to_json(self) -> dict[str, object]:
        own = {"kind": self.kind, "contender": self.contender, "count": self.count}
        return {**own, "adapter_bytes": self.adapter_bytes, **asdict(self.result)}


def measure_tasks(problem: Problem, contender: str) -> TrialResult:
    """Peak of the tasks of a problem, which are all of one size; one lane."""
    return _measured(_of_one_size(problem), contender, problem.device)


def measure_steps(problem: Problem, contender: str, steps: int) -> TrialResult:
    """Peak of so many inner Adam steps on the LoRA, at exact second order in flat memory; one lane."""
    workload = started_workload(problem, with_adam(problem.config, steps))
    return _measured(workload, contender, problem.device)


def with_adam(config: RunConfig, steps: int) -> RunConfig:
    """The configuration with so many Adam steps on the adapter, in flat memory."""
    learner = config.algorithm.learner
    assert isinstance(learner, GradientConfig)
    changes = {"optimizer": "adam", "lr": ADAM_LR, "steps": steps, "groups": ("lora",)}
    phases = tuple(phase.model_copy(update=changes) for phase in learner.phases)
    algorithm = config.algorithm.model_copy(update={"learner": learner.model_copy(update={"phases": phases})})
    engine = config.engine.model_copy(update={"memory": "flat"})
    return config.model_copy(update={"algorithm": algorithm, "engine": engine})


def run_points(
    problem: Problem, tasks: Sequence[int], steps: Sequence[int], limit_s: float, limit_mib: float
) -> list[Point]:
    """All points, each in a process of its own."""
    return [*_tasks(problem, tasks, limit_s, limit_mib), *_steps(problem, steps, limit_s, limit_mib)]


def _tasks(problem: Problem, counts: Sequence[int], limit_s: float, limit_mib: float) -> Iterator[Point]:
    adapter_bytes = _adapter_bytes(problem)
    for contender in ("vmap", "loop"):
        stopped: TrialResult | None = None
        for count in sorted(counts):
            work = partial(measure_tasks, problem.resized(count), contender)
            result = stopped or run_apart(work, limit_s, limit_mib)
            progress(f"{contender}, {count} tasks: {_text(result)}")
            yield Point("tasks", contender, count, result, adapter_bytes)
            if result.status != Status.OK:
                stopped = TrialResult(Status.SKIPPED, f"{result.status} with fewer tasks")


def _steps(problem: Problem, counts: Sequence[int], limit_s: float, limit_mib: float) -> Iterator[Point]:
    adapter_bytes = _adapter_bytes(problem)
    for count in sorted(counts):
        result = run_apart(partial(measure_steps, problem.resized(1), "loop", count), limit_s, limit_mib)
        progress(f"loop/flat, {count} inner Adam steps: {_text(result)}")
        yield Point("steps", "loop/flat", count, result, adapter_bytes)


def _measured(workload: Workload, contender: str, device: str) -> TrialResult:
    torch.set_num_threads(1)
    engine_run(contender, first_tasks(workload, 1), 1)()
    meter = MemoryMeter(device)
    meter.start()
    run = engine_run(contender, workload, 1)
    meter.reset_peak()
    norms: list[float] = []
    seconds = timed(synchronised(lambda: norms.append(global_norm(run())), device))
    return TrialResult(Status.OK, "", seconds, seconds / workload.num_tasks, meter.peak_mib(), norms[0])


def _of_one_size(problem: Problem) -> Workload:
    """A workload whose tasks are all of the most frequent size among many."""
    drawn = started_workload(problem.resized(problem.tasks * _POOL))
    sizes = drawn.episodes.sizes
    assert sizes is not None, "the tasks are texts"
    size, found = Counter(sizes).most_common(1)[0]
    assert found >= problem.tasks, f"{found} tasks of one size among {len(sizes)}"
    chosen = [task for task, each in enumerate(sizes) if each == size][: problem.tasks]
    return replace(drawn, episodes=drawn.episodes.select(chosen))


def _adapter_bytes(problem: Problem) -> int:
    meta = make_workload(problem.resized(1).config).meta
    return sum(tensor.numel() * tensor.element_size() for tensor in meta.values())


def added_bytes(points: Sequence[Point], contender: str) -> dict[int, float]:
    """Number of tasks -> bytes of each task after the first."""
    peaks = {point.count: point.peak_bytes for point in points if (point.kind, point.contender) == ("tasks", contender)}
    first = peaks.get(1)
    if first is None:
        return {}
    return {count: (peak - first) / (count - 1) for count, peak in peaks.items() if count > 1 and peak is not None}


def growth(points: Sequence[Point]) -> float | None:
    """Peak of the most inner steps over that of the fewest."""
    peaks = {point.count: point.peak_bytes for point in points if point.kind == "steps" and point.peak_bytes}
    return None if len(peaks) < 2 else peaks[max(peaks)] / peaks[min(peaks)]


def goals(points: Sequence[Point]) -> list[Goal]:
    """A further task costs no more than a task alone; many inner steps little more than few."""
    found = []
    alone = next((p.peak_bytes for p in points if (p.kind, p.contender, p.count) == ("tasks", "vmap", 1)), None)
    added = added_bytes(points, "vmap")
    if alone and added:
        share = added[max(added)] / alone
        found.append(Goal("bytes of a further task / bytes of one task alone", share, MAX_SHARE))
    if (grown := growth(points)) is not None:
        found.append(Goal("peak of the most inner Adam steps / of the fewest", grown, MAX_GROWTH))
    return found


def table(points: Sequence[Point]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for point in points:
        added = added_bytes(points, point.contender).get(point.count) if point.kind == "tasks" else None
        peak = point.result.peak_mib
        lines.append(
            {
                "what": f"{point.contender}, {point.count} {point.kind}",
                "peak MiB": point.result.status if peak is None else f"{peak:,.1f}",
                "added MiB a task": None if added is None else f"{added / MIB:,.2f}",
                "adapter MiB": f"{point.adapter_bytes / MIB:.2f}",
                "s a task": None if peak is None else f"{point.result.seconds_per_task:.3g}",
            }
        )
    return lines


def to_json(points: Sequence[Point]) -> dict[str, object]:
    return {
        "cells": [point.to_json() for point in points],
        "added_bytes": {name: added_bytes(points, name) for name in ("vmap", "loop")},
        "growth": growth(points),
    }


def _text(result: TrialResult) -> str:
    return result.reason if result.peak_mib is None else f"{result.peak_mib:,.1f} MiB"
