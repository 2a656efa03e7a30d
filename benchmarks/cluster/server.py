"""`distmeta bench server`: what an outer step costs besides computing, against the number of workers and their updates.

Workers are Ray actors whose update is ready before they are asked for it, one shard each; the server is the real one,
with plain gradient descent. So a step is all overhead: pull and put the parameters, hand out, write, fetch, check and
add the updates, make the outer step. Beside each step, in turn, the bytes of its updates (workers x payload) are copied
once in memory, by one thread: `x copy` is the overhead over that time, and its inverse the share of the bandwidth of
copying memory that the whole path reaches.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.cluster.payload import MB, OUTER, Step, cluster, heap_bytes, make_params, make_shards, medians, run_step
from benchmarks.timing import median, timed
from distmeta.core.errors import DistmetaError, UserError
from distmeta.runtime.executor import Executor
from distmeta.server import ParameterServer

_LOG = logging.getLogger(__name__)

GOAL_WORKERS, GOAL_PAYLOAD_MB, GOAL_RATIO = 32, 20.0, 3.0
"""At so many workers and MB, a step costs at most so many times copying its updates once."""
GOAL_GROWTH = 1.5
"""Twice the workers, and so twice the bytes, make the ratio to copying them at most this much larger."""

_WARM_STEPS = 3
_FEWEST_STEPS, _MOST_STEPS, _ROW_BYTES = 3, 30, 8e9
_COPY_BLOCK_BYTES = 256 << 20
_PROCESS_BYTES = 120 << 20  # of memory that a worker's process has for itself
_SPARE = 0.9
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Row:
    """One number of workers with one size of updates.

    Attributes:
        workers: Actors, and shards of a step.
        payload_mb: Size of an update, as asked for.
        num_bytes: Of all updates of a step.
        steps: The steps, timed.
        copy_s: Seconds to copy `num_bytes` once, after each step.
        doubled: Shards that were given to a second worker.
    """

    workers: int
    payload_mb: float
    num_bytes: int
    steps: tuple[Step, ...]
    copy_s: tuple[float, ...]
    doubled: int

    @property
    def overhead_s(self) -> float:
        """Median seconds of a step."""
        return medians(self.steps).total_s

    @property
    def ratio(self) -> float:
        """The overhead as a multiple of copying the updates once."""
        return self.overhead_s / median(list(self.copy_s))

    def to_json(self) -> dict[str, object]:
        """All of it, for programs."""
        found, copy_s = medians(self.steps), median(list(self.copy_s))
        return {
            "workers": self.workers,
            "payload_mb": self.payload_mb,
            "bytes": self.num_bytes,
            "steps": len(self.steps),
            "send_s": found.send_s,
            "report_s": found.report_s,
            "add_s": found.add_s,
            "outer_s": found.outer_s,
            "overhead_s": found.total_s,
            "copy_s": copy_s,
            "x_copy": self.ratio,
            "share_of_copy_bandwidth": 1.0 / self.ratio,
            "doubled": self.doubled,
            "cpu_s": {name: value for name, value in asdict(found).items() if name.endswith("cpu_s")},
            "seconds": [step.total_s for step in self.steps],
            "copy_seconds": list(self.copy_s),
        }


@dataclass(frozen=True)
class Refused:
    """A row that would not fit."""

    workers: int
    payload_mb: float
    reason: str


def store_bytes(shards: int, payload: float) -> int:
    """Size of an object store for a step's updates: Ray begins to write to the disk at 80%."""
    return int(1.5 * shards * payload + 4 * payload) + (128 << 20)


def needed_bytes(workers: int, payload: float, shards_per_worker: int = 1) -> int:
    """Memory of all processes together: the store, the workers, the server, what is copied beside it."""
    shards = workers * shards_per_worker
    total = shards * payload
    crew = workers * (_PROCESS_BYTES + heap_bytes(payload))
    return int(store_bytes(shards, payload) + crew + 6 * payload + 2 * min(total, _COPY_BLOCK_BYTES))


def free_bytes() -> int:
    """Memory to be had here, where the object store is as well."""
    available = int(psutil.virtual_memory().available)
    return min(available, shutil.disk_usage(_SHARED_MEMORY).free) if _SHARED_MEMORY.is_dir() else available


def steps_for(total_bytes: float) -> int:
    """Steps of a row: fewer for larger ones."""
    return int(max(_FEWEST_STEPS, min(_MOST_STEPS, _ROW_BYTES / total_bytes)))


def fitting(
    workers: Sequence[int], payloads_mb: Sequence[float], memory_bytes: int | None = None
) -> tuple[list[tuple[int, float]], list[Refused]]:
    """All rows (workers, MB): those for which there is memory, and the others.

    Args:
        workers: Numbers of actors.
        payloads_mb: Sizes of an update.
        memory_bytes: Memory that may be used; None takes most of what is free.

    Raises:
        UserError: No row fits.
    """
    allowed = memory_bytes or int(_SPARE * free_bytes())
    fit: list[tuple[int, float]] = []
    refused: list[Refused] = []
    for count in sorted(workers):
        for size in sorted(payloads_mb):
            needed = needed_bytes(count, size * MB)
            reason = f"needs {needed / MB:,.0f} MB of memory, {allowed / MB:,.0f} MB are to be had"
            if needed <= allowed:
                fit.append((count, size))
            else:
                refused.append(Refused(count, size, reason))
    if not fit:
        allowed_text = "fewer workers or smaller payloads"
        raise UserError(f"no row fits: the smallest {refused[0].reason}", where="--payload", allowed=allowed_text)
    return fit, refused


def bench_server(rows: Sequence[tuple[int, float]], steps: int | None) -> Iterator[Row]:
    """Measure these rows (workers, MB) on a cluster of its own; those with as many workers have the same ones.

    Args:
        rows: Those that fit (see `fitting`).
        steps: Timed steps of a row; None takes as many as fit its size.
    """
    store = max(store_bytes(count, size * MB) for count, size in rows)
    with cluster(max(count for count, _ in rows), store) as crew:
        for count in dict.fromkeys(count for count, _ in rows):
            _LOG.info("starting %d workers", count)
            executor = crew(count)
            try:
                for size in (size for other, size in rows if other == count):
                    yield _measure(executor, count, size, steps)
            finally:
                executor.close()


def _measure(executor: Executor, workers: int, payload_mb: float, steps: int | None) -> Row:
    """Make steps, and copy as many bytes after each of them."""
    params = make_params(int(payload_mb * MB))
    num_bytes = workers * sum(tensor.nbytes for tensor in params.values())
    server = ParameterServer(params, OUTER, total_steps=1)
    shards = make_shards([0.0] * workers)
    copy, count = Copy(num_bytes), steps or steps_for(num_bytes)
    for _ in range(_WARM_STEPS):
        run_step(server, executor, shards)
        copy.run()
    before = executor.counts["copies"]
    made, copied = [], []
    for _ in range(count):
        made.append(run_step(server, executor, shards))
        copied.append(timed(copy.run))
    failed = {name: value for name, value in executor.counts.items() if value and name != "copies"}
    if failed:
        raise DistmetaError(f"{workers} workers, {payload_mb:g} MB: workers failed: {failed}")
    return Row(workers, payload_mb, num_bytes, tuple(made), tuple(copied), executor.counts["copies"] - before)


class Copy:
    """Copies so many bytes in memory, by one thread; in blocks, of which both ends are larger than a cache."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._source = np.ones(min(num_bytes, _COPY_BLOCK_BYTES), dtype=np.uint8)
        self._target = np.zeros_like(self._source)

    def run(self) -> None:
        """Copy once."""
        left = self._num_bytes
        while left:
            size = min(left, self._source.size)
            self._target[:size] = self._source[:size]
            left -= size


def growth(rows: Sequence[Row]) -> dict[tuple[int, float], float]:
    """By workers and payload: the ratio to copying over that at half as many workers, where both were measured."""
    ratios = {(row.workers, row.payload_mb): row.ratio for row in rows}
    return {
        (workers, size): ratio / ratios[workers // 2, size]
        for (workers, size), ratio in ratios.items()
        if workers % 2 == 0 and (workers // 2, size) in ratios
    }


def goals(rows: Sequence[Row]) -> dict[str, bool | None]:
    """Whether the goals are reached: of the overhead, and of its growth; None where it was not measured."""
    at_goal = [row.ratio for row in rows if (row.workers, row.payload_mb) == (GOAL_WORKERS, GOAL_PAYLOAD_MB)]
    grown = growth(rows).values()
    return {
        "overhead": at_goal[0] <= GOAL_RATIO if at_goal else None,
        "growth": max(grown) <= GOAL_GROWTH if grown else None,
    }


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The goals, as far as they were measured."""
    reached, grown = goals(rows), growth(rows)
    lines = []
    if reached["overhead"] is not None:
        what = f"overhead at {GOAL_WORKERS} workers and {GOAL_PAYLOAD_MB:g} MB"
        lines.append(f"{what}: at most {GOAL_RATIO:g} x copying once: {'yes' if reached['overhead'] else 'no'}")
    if reached["growth"] is not None:
        what = f"growth of x copy for twice the workers: at most {GOAL_GROWTH:g} x"
        lines.append(f"{what}: {'yes' if reached['growth'] else 'no'} (worst {max(grown.values()):.2f})")
    return lines


def table(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows of the table for people; milliseconds."""
    grown, lines = growth(rows), []
    for row in rows:
        found, copy_s = medians(row.steps), median(list(row.copy_s))
        line: dict[str, object] = {"workers": row.workers, "MB": f"{row.payload_mb:g}"}
        seconds = {
            "pull + put": found.send_s,
            "reports": found.report_s,
            "add": found.add_s,
            "outer": found.outer_s,
            "overhead": found.total_s,
            "copy": copy_s,
        }
        line |= {name: f"{1e3 * value:,.1f}" for name, value in seconds.items()}
        line |= {"x copy": f"{row.ratio:.2f}", "of copying": f"{100 / row.ratio:.0f}%"}
        half = grown.get((row.workers, row.payload_mb))
        lines.append(line | {"x half": None if half is None else f"{half:.2f}", "doubled": row.doubled})
    return lines


def curves(rows: Sequence[Row]) -> dict[str, tuple[list[int], list[float], list[float]]]:
    """For the picture: payload -> workers, seconds of overhead, ratio to copying."""
    found: dict[str, tuple[list[int], list[float], list[float]]] = {}
    for row in rows:
        workers, seconds, ratios = found.setdefault(f"{row.payload_mb:g} MB", ([], [], []))
        workers.append(row.workers)
        seconds.append(row.overhead_s)
        ratios.append(row.ratio)
    return found
