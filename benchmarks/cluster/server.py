"""`distmeta bench server`: overhead of an outer step against the number of workers and the size of their updates.

Workers are Ray actors with ready-made updates, one shard each; the server is the real one with plain gradient descent.
A step is all overhead: pull and put the parameters, assign, write, fetch, check and add the updates, step. After each
step the bytes of its updates (workers x payload) are copied once in memory by one thread: `x copy` is the overhead over
that time, and its inverse the share of the memory's copy bandwidth that the whole path reaches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from benchmarks.cluster.common import overhead
from benchmarks.cluster.common.overhead import COPY_BLOCK_BYTES, MB, WARM_UP_STEPS, OverheadSteps, StepTimes
from benchmarks.pictures import Curves, grouped
from benchmarks.report import Goal
from benchmarks.timing import timed
from distmeta.core.errors import DistmetaError, UserError
from distmeta.runtime.executor import Executor

GOAL_WORKERS, GOAL_PAYLOAD_MB, GOAL_RATIO = 32, 20.0, 3.0
"""At this number of workers and size, a step costs at most this many times copying its updates once."""
GOAL_GROWTH = 1.5
"""Twice the workers, and so twice the bytes, increase `x copy` at most by this factor."""
_MIN_STEPS, _MAX_STEPS, _ROW_BYTES = 3, 30, 8e9

Place = tuple[int, float]
"""Number of workers, and size of an update in MB as asked for."""


@dataclass(frozen=True)
class Row:
    """The timed steps of one number of workers with one size of updates.

    Attributes:
        num_bytes: Of all updates of a step.
        copy_s: Seconds to copy `num_bytes` once, after each step.
        backups: Shards that were given to a second worker.
    """

    workers: int
    payload_mb: float
    num_bytes: int
    steps: tuple[StepTimes, ...]
    copy_s: tuple[float, ...]
    backups: int

    @property
    def place(self) -> Place:
        return self.workers, self.payload_mb

    @property
    def medians(self) -> StepTimes:
        return StepTimes.medians(self.steps)

    @property
    def ratio(self) -> float:
        """The overhead as a multiple of copying the updates once."""
        return self.medians.total_s / median(self.copy_s)

    def to_json(self) -> dict[str, object]:
        step = asdict(self.medians)
        return {
            "workers": self.workers,
            "payload_mb": self.payload_mb,
            "bytes": self.num_bytes,
            "steps": len(self.steps),
            **{name: step[name] for name in ("send_s", "report_s", "add_s", "outer_s")},
            "overhead_s": step["total_s"],
            "copy_s": median(self.copy_s),
            "x_copy": self.ratio,
            "share_of_copy_bandwidth": 1.0 / self.ratio,
            "backups": self.backups,
            "cpu_s": {name: value for name, value in step.items() if name.endswith("cpu_s")},
            "seconds": [step.total_s for step in self.steps],
            "copy_seconds": list(self.copy_s),
        }


def fitting(
    workers: Sequence[int], payloads_mb: Sequence[float], usable: int | None = None
) -> tuple[list[Place], dict[Place, str]]:
    """Divide all rows into those that fit into the usable bytes of memory, and the others with the reason.

    Raises:
        UserError: No row fits.
    """
    usable = usable or overhead.usable_bytes()
    fit: list[Place] = []
    left_out: dict[Place, str] = {}
    for count, size in itertools.product(sorted(workers), sorted(payloads_mb)):
        needed = overhead.needed_bytes(count, size * MB)
        if needed <= usable:
            fit.append((count, size))
        else:
            left_out[count, size] = f"needs {needed / MB:,.0f} MB of memory, {usable / MB:,.0f} MB are available"
    if not fit:
        smallest, allowed = next(iter(left_out.values())), "fewer workers or smaller payloads"
        raise UserError(f"no row fits: the smallest {smallest}", where="--payload", allowed=allowed)
    return fit, left_out


def bench_server(rows: Sequence[Place], steps: int | None, leaders: int = 0) -> Iterator[Row]:
    """Measure rows on a Ray cluster of its own; those with as many workers share them.

    Without a number of steps, rows with larger updates have fewer.
    """
    store = max(overhead.store_bytes(count, size * MB) for count, size in rows)
    with overhead.ray_workers(max(count for count, _ in rows), store, leaders=leaders) as workers_of:
        for count, places in itertools.groupby(rows, key=lambda place: place[0]):
            with workers_of(count) as executor:
                for _, size in places:
                    yield _measure(executor, count, size, steps)


def _measure(executor: Executor, workers: int, payload_mb: float, num_steps: int | None) -> Row:
    overhead_steps = OverheadSteps(executor, payload_mb)
    num_bytes = workers * overhead_steps.payload
    copy, sleeps_s = Copy(num_bytes), [0.0] * workers
    for _ in range(WARM_UP_STEPS):
        overhead_steps.step(sleeps_s)
        copy.run()
    before = executor.counts["copies"]
    pairs = [(overhead_steps.step(sleeps_s), timed(copy.run)) for _ in range(num_steps or steps_for(num_bytes))]
    failures = {name: count for name, count in executor.counts.items() if count and name not in ("copies", "groups")}
    if failures:
        raise DistmetaError(f"{workers} workers, {payload_mb:g} MB: workers failed: {failures}")
    steps, copy_s = zip(*pairs, strict=True)
    return Row(workers, payload_mb, num_bytes, steps, copy_s, executor.counts["copies"] - before)


def steps_for(num_bytes: float) -> int:
    """Number of steps of a row: fewer for larger ones."""
    return int(max(_MIN_STEPS, min(_MAX_STEPS, _ROW_BYTES / num_bytes)))


class Copy:
    """Copies a number of bytes in memory by one thread, in blocks that are larger than a cache."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._source = np.ones(min(num_bytes, COPY_BLOCK_BYTES), dtype=np.uint8)
        self._target = np.zeros_like(self._source)

    def run(self) -> None:
        left = self._num_bytes
        while left:
            size = min(left, self._source.size)
            self._target[:size] = self._source[:size]
            left -= size


def growth(rows: Sequence[Row]) -> dict[Place, float]:
    """`x copy` over that at half as many workers, where both were measured."""
    ratios = {row.place: row.ratio for row in rows}
    doubled = {(2 * workers, size): ratio for (workers, size), ratio in ratios.items()}
    return {place: ratio / doubled[place] for place, ratio in ratios.items() if place in doubled}


def goals(rows: Sequence[Row]) -> dict[str, Goal]:
    """The goals whose values were measured."""
    ratios, result = {row.place: row.ratio for row in rows}, {}
    if ratio := ratios.get((GOAL_WORKERS, GOAL_PAYLOAD_MB)):
        result["overhead"] = Goal(f"x copy at {GOAL_WORKERS} workers and {GOAL_PAYLOAD_MB:g} MB", ratio, GOAL_RATIO)
    if factors := growth(rows).values():
        result["growth"] = Goal("largest growth of x copy for twice the workers", max(factors), GOAL_GROWTH)
    return result


def table(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The lines of the printed table; times in milliseconds."""
    factors = growth(rows)
    lines: list[dict[str, object]] = []
    for row in rows:
        step, factor = row.medians, factors.get(row.place)
        lines.append(
            {
                "workers": row.workers,
                "MB": f"{row.payload_mb:g}",
                "pull + put": _ms(step.send_s),
                "reports": _ms(step.report_s),
                "add": _ms(step.add_s),
                "outer": _ms(step.outer_s),
                "overhead": _ms(step.total_s),
                "copy": _ms(median(row.copy_s)),
                "x copy": f"{row.ratio:.2f}",
                "of copying": f"{1 / row.ratio:.0%}",
                "x half": None if factor is None else f"{factor:.2f}",
                "backups": row.backups,
            }
        )
    return lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def to_json(rows: Sequence[Row], left_out: Mapping[Place, str]) -> dict[str, object]:
    return {
        "copy": "seconds to copy workers x payload bytes once in memory, by one thread; after each step",
        "outer_optimizer": "SGD without momentum",
        "rows": [row.to_json() for row in rows],
        "left_out": [{"workers": count, "payload_mb": size, "reason": why} for (count, size), why in left_out.items()],
        "growth": [{"workers": count, "payload_mb": size, "x_half": x} for (count, size), x in growth(rows).items()],
        "goals": {name: goal.reached for name, goal in goals(rows).items()},
    }


def curves(rows: Sequence[Row]) -> Curves:
    """Payload -> points of (workers, seconds of overhead, ratio to copying)."""
    return grouped((f"{row.payload_mb:g} MB", (row.workers, row.medians.total_s, row.ratio)) for row in rows)
