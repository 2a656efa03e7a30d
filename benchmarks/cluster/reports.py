"""Processor time of the driver for each report of a shard, against the size of an update.

    python -m benchmarks.cluster.reports
    python -m benchmarks.cluster.reports --base COMMIT      # turn by turn with that commit, which has this command too
    python -m benchmarks.cluster.reports --workers 32 --leaders 2      # and the same workers under leaders
    python -m benchmarks.cluster.reports --profile          # and where the time goes, by function

Workers are actors that answer at once and load no torch; each has several shards a step, and updates are ready-made.
Processor time and not elapsed time, since driver and workers share the machine. A report is everything that the driver
does for a shard: assign, submit, wait, fetch, decode, add to the server's sum.

    thread     of the driver's own thread, which bounds a step where workers are many
    adding     the part of it that adds the update to the server's sum
    Ray        of Ray's threads in the driver's process
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.cluster.common import overhead
from benchmarks.cluster.common.overhead import MB, WARM_UP_STEPS, OverheadSteps
from benchmarks.engine.versions import checked_out
from benchmarks.report import Report, progress
from benchmarks.scripts import CHECKOUT, options, settings
from distmeta.cli.output import print_table

SIZES_MB = (0.05, 0.5, 1.0)
TASKS = 16
"""Of each shard, as `runtime.shard_size`."""
_PROFILED = 30
_ANSWER = "driver ms: "


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time for a report, medians over steps: see the module."""

    payload_mb: float
    thread_ms: float
    adding_ms: float
    ray_ms: float


def measure(args: argparse.Namespace, leaders: int = 0) -> list[Cost]:
    """The costs of each size, on a Ray cluster of its own."""
    count = args.workers * args.shards
    costs: list[Cost] = []
    store = overhead.store_bytes(count, max(args.sizes) * MB)
    cluster = overhead.ray_workers(args.workers, store, light=True, leaders=leaders)
    with cluster as workers_of, workers_of(args.workers) as executor:
        for size in args.sizes:
            steps = OverheadSteps(executor, size, TASKS)
            for _ in range(WARM_UP_STEPS):
                steps.step([0.0] * count)
            with cProfile.Profile(time.thread_time) if args.profile else nullcontext() as profile:
                times = [steps.step([0.0] * count) for _ in range(args.steps)]
            if profile is not None:
                pstats.Stats(profile).sort_stats("tottime").print_stats(_PROFILED)
            parts = [
                (t.serial_s - t.outer_cpu_s - t.pull_cpu_s, t.add_cpu_s, t.process_cpu_s - t.serial_s) for t in times
            ]
            thread, adding, ray = (median(part) * 1e3 / count for part in zip(*parts, strict=True))
            costs.append(Cost(size, thread, adding, ray))
    return costs


def turn(root: Path, args: argparse.Namespace) -> list[Cost]:
    """The costs of a version, measured by a process of its own."""
    sizes = [str(size) for size in args.sizes]
    command = [sys.executable, "-P", "-m", "benchmarks.cluster.reports", "--answer", "--sizes", *sizes]
    command += [f"--{name}={getattr(args, name)}" for name in ("workers", "shards", "steps")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    found = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer = next(line for line in found.stdout.splitlines() if line.startswith(_ANSWER))
    return [Cost(**cost) for cost in json.loads(answer.removeprefix(_ANSWER))]


def compare(args: argparse.Namespace) -> dict[str, list[Cost]]:
    """The costs of the other commit and of this checkout, medians over their turns."""
    turns: dict[str, list[list[Cost]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as scratch:
        roots = {"before": checked_out(args.base, Path(scratch)), "now": CHECKOUT}
        for number in range(args.turns):
            for name in sorted(roots, reverse=bool(number % 2)):
                progress(f"turn {number + 1} of {args.turns}: {name}")
                turns[name].append(turn(roots[name], args))
    return {name: [merged(of_size) for of_size in zip(*found, strict=True)] for name, found in turns.items()}


def merged(costs: Sequence[Cost]) -> Cost:
    """Medians over turns."""
    thread, adding, ray = (
        median(getattr(cost, name) for cost in costs) for name in ("thread_ms", "adding_ms", "ray_ms")
    )
    return Cost(costs[0].payload_mb, thread, adding, ray)


def rows(costs: Sequence[Cost], version: str) -> list[dict[str, object]]:
    return [
        {
            "MB": f"{cost.payload_mb:g}",
            "version": version,
            "thread, ms": f"{cost.thread_ms:.3f}",
            "adding, ms": f"{cost.adding_ms:.3f}",
            "Ray, ms": f"{cost.ray_ms:.3f}",
        }
        for cost in costs
    ]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES_MB), help="of updates, in MB")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--shards", type=int, default=8, help="of each worker in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--leaders", type=int, default=0, help="measure the same workers under leaders too")
    parser.add_argument("--base", metavar="COMMIT", help="measure this commit too, turn by turn")
    parser.add_argument("--turns", type=int, default=3, help="of each version")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        print(_ANSWER + json.dumps([asdict(cost) for cost in measure(args)]))
        return
    report = Report("reports", args.out)
    found = compare(args) if args.base else {"now": measure(args)}
    if args.leaders:
        found[f"{args.leaders} leaders"] = measure(args, args.leaders)
    title = f"driver's processor time a report, {args.workers} workers, {args.shards} shards each"
    print_table([row for version, costs in found.items() for row in rows(costs, version)], title)
    versions = {version: [asdict(cost) for cost in costs] for version, costs in found.items()}
    report.write(settings=settings(args), versions=versions)


if __name__ == "__main__":
    main()
