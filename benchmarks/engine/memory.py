"""`distmeta bench memory`: peak memory and seconds against the number of inner steps, on conv4 with second order.

Every cell (a contender and a number of steps) has a process of its own. A contender that fails, takes too long or too
much memory at one number of steps is not asked for more of them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from benchmarks.engine.cell import Cell, Measured, run_cell
from benchmarks.engine.contenders import display
from benchmarks.engine.peers import PEERS, left_out
from benchmarks.engine.problems import Problem, images, problem, with_steps
from distmeta.config.models import Conv4Config
from distmeta.methods import maml

_LOG = logging.getLogger(__name__)
SKIPPED, LEFT_OUT, OK = "skipped", "left out", "ok"


@dataclass(frozen=True)
class Sweep:
    """What to measure.

    Attributes:
        contenders: Who.
        steps: Numbers of inner steps.
        way, shots, queries: Classes, support and query examples of each.
        tasks: Tasks of one run.
        threads: Intra-op threads of the peers.
        lanes: Tasks in flight in the engine.
        rounds: Timed runs of a cell.
        limit_s: Seconds that a cell may take.
        limit_mib: Resident memory that a cell may have.
        device: Where.
    """

    contenders: tuple[str, ...]
    steps: tuple[int, ...] = (5, 10, 20, 50, 100)
    way: int = 20
    shots: int = 5
    queries: int = 5
    tasks: int = 1
    threads: int = 2
    lanes: int = 1
    rounds: int = 3
    limit_s: float = 300.0
    limit_mib: float = 8192.0
    device: str = "cpu"

    def problem(self) -> Problem:
        """The problem, with one inner step."""
        name, tasks = f"conv4_{self.way}w{self.shots}s", images(self.way, self.shots, self.queries)
        swept = problem(name, "MAML, inner steps swept", tasks, Conv4Config(), maml(lr=0.1), self.tasks)
        return swept.resized(device=self.device)


@dataclass(frozen=True)
class Point:
    """One cell's result."""

    contender: str
    steps: int
    status: str
    reason: str
    peak_mib: float | None
    seconds_per_task: float | None
    first_s: float | None
    norm: float | None


def run_sweep(sweep: Sweep) -> list[Point]:
    """Measure all cells, contender by contender, the fewest steps first."""
    config = sweep.problem().config
    points: list[Point] = []
    for name in sweep.contenders:
        missing = left_out(name, config) if name in PEERS else None
        stopped = "" if missing is None else missing
        status = SKIPPED if missing is None else LEFT_OUT
        for steps in sorted(sweep.steps):
            if stopped:
                points.append(_point(name, steps, Measured(status, stopped), sweep.tasks))
                continue
            cell = Cell(
                with_steps(config, steps).model_dump_json(), name, sweep.threads, sweep.lanes, max(1, sweep.rounds)
            )
            measured = run_cell(cell, sweep.limit_s, sweep.limit_mib)
            _LOG.info("%s, %d steps: %s %s", name, steps, measured.status, measured.reason or f"{measured.run_s:.2f} s")
            points.append(_point(name, steps, measured, sweep.tasks))
            if measured.status != OK:
                stopped = f"{measured.status} at {steps} steps"
    return points


def _point(name: str, steps: int, measured: Measured, tasks: int) -> Point:
    seconds = None if measured.run_s is None else measured.run_s / tasks
    return Point(
        name,
        steps,
        measured.status,
        measured.reason,
        measured.peak_mib,
        seconds,
        measured.first_s,
        measured.norm,
    )


def growth(points: list[Point]) -> dict[str, float]:
    """Peak at the most steps over that at the fewest, for each contender that has both."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        if point.peak_mib:
            found.setdefault(point.contender, []).append((point.steps, point.peak_mib))
    return {name: max(peaks)[1] / min(peaks)[1] for name, peaks in found.items() if len(peaks) > 1}


def table(points: list[Point]) -> list[dict[str, object]]:
    """A row for each contender, a pair of columns for each number of steps."""
    steps = sorted({point.steps for point in points})
    grown, rows = growth(points), []
    for name in dict.fromkeys(point.contender for point in points):
        mine = {point.steps: point for point in points if point.contender == name}
        row: dict[str, object] = {"contender": display(name)}
        row |= {f"{count} steps": _text(mine[count]) for count in steps}
        rows.append(row | {"growth": f"{grown[name]:.2f}x" if name in grown else None})
    return rows


def _text(point: Point) -> str:
    if point.peak_mib is None or point.seconds_per_task is None:
        return point.status
    return f"{point.peak_mib:,.0f}, {point.seconds_per_task:.3g}"


def curves(points: list[Point]) -> dict[str, tuple[list[int], list[float], list[float]]]:
    """For the picture: contender -> steps, MiB and seconds of the cells that have them."""
    found: dict[str, tuple[list[int], list[float], list[float]]] = {}
    for point in points:
        if point.peak_mib is not None and point.seconds_per_task is not None:
            steps, peaks, seconds = found.setdefault(point.contender, ([], [], []))
            steps.append(point.steps)
            peaks.append(point.peak_mib)
            seconds.append(point.seconds_per_task)
    return found


def to_json(points: list[Point], sweep: Sweep) -> dict[str, object]:
    """Everything, for programs."""
    return {"settings": asdict(sweep), "cells": [asdict(point) for point in points], "growth": growth(points)}
