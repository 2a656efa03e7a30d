"""`distmeta bench memory`: peak memory and seconds per task against the number of inner steps, on second-order conv4.

Every point (a contender and a number of steps) is a trial in a process of its own. After a point that fails or exceeds
a limit, the contender's points with more steps are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.engine.common.contenders import Status, display
from benchmarks.engine.common.peers import PEERS, left_out
from benchmarks.engine.common.problems import Problem, images, problem, with_steps
from benchmarks.engine.common.trial import Trial, TrialResult, run_trial
from benchmarks.pictures import grouped
from benchmarks.report import progress
from distmeta.config import RunConfig
from distmeta.config.models import Conv4Config
from distmeta.methods import maml


@dataclass(frozen=True)
class Sweep:
    contenders: tuple[str, ...]
    steps: tuple[int, ...]
    way: int
    shots: int
    queries: int
    tasks: int
    threads: int
    lanes: int
    rounds: int
    limit_s: float
    limit_mib: float
    device: str

    def problem(self) -> Problem:
        """The problem, with one inner step."""
        name, tasks = f"conv4_{self.way}w{self.shots}s", images(self.way, self.shots, self.queries)
        swept = problem(name, "MAML, inner steps swept", tasks, Conv4Config(), maml(lr=0.1), self.tasks)
        return swept.resized(device=self.device)


@dataclass(frozen=True)
class Point:
    """The result of one contender at one number of steps."""

    contender: str
    steps: int
    result: TrialResult

    @property
    def numbers(self) -> tuple[float, float, float] | None:
        """Inner steps, peak MiB and seconds per task; None where it was not measured."""
        peak_mib, seconds = self.result.peak_mib, self.result.seconds_per_task
        return None if peak_mib is None or seconds is None else (self.steps, peak_mib, seconds)

    @property
    def text(self) -> str:
        if self.numbers is None:
            return self.result.status
        _, peak_mib, seconds = self.numbers
        return f"{peak_mib:,.0f}, {seconds:.3g}"

    def to_json(self) -> dict[str, object]:
        return {"contender": self.contender, "steps": self.steps, **asdict(self.result)}


def run_sweep(sweep: Sweep) -> list[Point]:
    """Measure all points, contender by contender, the fewest steps first."""
    config = sweep.problem().config
    return [point for name in sweep.contenders for point in _points(name, sweep, config)]


def _points(name: str, sweep: Sweep, config: RunConfig) -> Iterator[Point]:
    reason = left_out(name, config) if name in PEERS else None
    stopped = None if reason is None else TrialResult(Status.LEFT_OUT, reason)
    for steps in sorted(sweep.steps):
        if stopped is not None:
            yield Point(name, steps, stopped)
            continue
        trial = Trial(with_steps(config, steps), name, sweep.threads, sweep.lanes, sweep.rounds)
        result = run_trial(trial, sweep.limit_s, sweep.limit_mib)
        point = Point(name, steps, result)
        progress(f"{name}, {steps} steps: {result.reason or f'{point.text} (MiB, seconds per task)'}")
        yield point
        if result.status != Status.OK:
            stopped = TrialResult(Status.SKIPPED, f"{result.status} at {steps} steps")


def curves(points: Sequence[Point]) -> dict[str, list[tuple[float, ...]]]:
    """Contender -> measured points of (inner steps, peak MiB, seconds per task)."""
    return grouped((point.contender, point.numbers) for point in points if point.numbers is not None)


def growth(points: Sequence[Point]) -> dict[str, float]:
    """Peak memory at the most steps over that at the fewest, for each contender with two or more peaks."""
    peaks = {name: [(steps, peak) for steps, peak, _ in curve if peak] for name, curve in curves(points).items()}
    return {name: max(pairs)[1] / min(pairs)[1] for name, pairs in peaks.items() if len(pairs) > 1}


def table(points: Sequence[Point]) -> list[dict[str, object]]:
    """A line for each contender, a column `MiB, seconds per task` for each number of steps."""
    steps, grown = sorted({point.steps for point in points}), growth(points)
    lines = []
    for name in dict.fromkeys(point.contender for point in points):
        cells = {point.steps: point.text for point in points if point.contender == name}
        line: dict[str, object] = {"contender": display(name), **{f"{count} steps": cells[count] for count in steps}}
        lines.append(line | {"growth": f"{grown[name]:.2f}x" if name in grown else None})
    return lines


def to_json(points: Sequence[Point], sweep: Sweep) -> dict[str, object]:
    return {"settings": asdict(sweep), "cells": [point.to_json() for point in points], "growth": growth(points)}
