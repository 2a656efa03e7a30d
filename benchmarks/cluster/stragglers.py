"""Duration of synchronous steps where one of four workers is slow, beside undisturbed steps.

    sleep      shards sleep for a fixed time, so four workers run at once on any machine; one sleeps eight times as long
    throttle   MAML on conv4; every worker is stopped and continued from outside, so that it has a fixed share of a core
               as on a machine of its own; one worker has an eighth of that

Both with and without backup copies of late shards (`runtime.tolerance.speculate`). The first steps, in which the
scheduler does not yet know the throughput of the workers, are shown separately. `ideal` is the shortest step of any
schedule of this number of indivisible shards. The meta-parameters must be the same bits in all cases.

    python -m benchmarks.cluster.stragglers --out runs/bench
    python -m benchmarks.cluster.stragglers --ways sleep --steps 20 --shard-s 0.05
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.cluster.common.overhead import OverheadSteps
from benchmarks.cluster.common.programs import SleepRecipe
from benchmarks.cluster.common.steps import CPUS_PER_WORKER, FIXED, OuterSteps, session, start_executor
from benchmarks.cluster.common.throttle import throttled_workers
from benchmarks.report import Goal, Report
from benchmarks.scripts import load_job, options, run_main, settings
from benchmarks.timing import timed
from distmeta.cli.output import print_table
from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.tensors import digest
from distmeta.runtime import build_executor
from distmeta.tracking.plots import training_curves

WORKERS, FIRST_STEPS, GOAL = 4, 3, 1.5
# Whether a worker is slow, and whether late shards are copied.
CASES = {"undisturbed": (False, True), "slowed, copies": (True, True), "slowed, no copies": (True, False)}


@dataclass(frozen=True)
class Case:
    """The steps of one case: seconds of each, copies of late shards, and the digest of the meta-parameters."""

    way: str
    name: str
    shards: int
    seconds: list[float]
    copies: int
    digest: str

    @property
    def later(self) -> list[float]:
        return self.seconds[FIRST_STEPS:]

    def row(self, undisturbed: Case, slowdown: float) -> dict[str, object]:
        """The line of the table; ratios are to the undisturbed median."""
        usual = median(undisturbed.later)
        return {
            "way": self.way,
            "shards": self.shards,
            "case": self.name,
            "first steps, s": ", ".join(f"{seconds:.2f}" for seconds in self.seconds[:FIRST_STEPS]),
            "median, s": f"{median(self.later):.3f}",
            "worst, s": f"{max(self.later):.3f}",
            "median ratio": f"{median(self.later) / usual:.2f}",
            "ideal": "1.00" if self is undisturbed else f"{ideal(self.shards, slowdown):.2f}",
            "worst ratio": f"{max(self.later) / usual:.2f}",
            "copies": self.copies,
            "same bits": "yes" if self.digest == undisturbed.digest else "NO",
        }


def ideal(shards: int, slowdown: float) -> float:
    """The shortest step with one slow worker, as a multiple of the shortest one without."""
    durations = [1.0] * (WORKERS - 1) + [slowdown]
    ends = sorted(duration * count for duration in durations for count in range(1, shards + 1))
    return ends[shards - 1] / math.ceil(shards / WORKERS)


def sleeping(name: str, num_shards: int, args: argparse.Namespace) -> Case:
    slow, speculate = CASES[name]
    tolerance = ToleranceConfig(speculate=speculate)
    runtime = RuntimeConfig(workers=WORKERS, cpus_per_worker=CPUS_PER_WORKER, tolerance=tolerance)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        executor = build_executor(runtime, SleepRecipe(args.slowdown if slow else 1.0, folder))
        stack.callback(executor.close)
        executor.ready()
        steps = OverheadSteps(executor, payload_mb=0.001)
        seconds = [steps.step([args.shard_s] * num_shards).total_s for _ in range(args.steps)]
        bits = digest(steps.server.pull().params)
        return Case("sleep", name, num_shards, seconds, executor.counts["copies"], bits)


def throttling(name: str, num_shards: int, args: argparse.Namespace) -> Case:
    """Steps of MAML on drawn characters, by workers with shares of a core."""
    slow, speculate = CASES[name]
    config = load_job(
        "demo.py",
        *FIXED,
        f"runtime.workers={WORKERS}",
        f"runtime.tolerance.speculate={str(speculate).lower()}",
        f"runtime.shard_size={args.shard_tasks}",
        f"train.tasks_per_step={args.shard_tasks * num_shards}",
        "engine.strategy=loop",
    )
    with ExitStack() as stack:
        executor = start_executor(config, stack)
        steps = OuterSteps(config, executor, stack)
        steps.step()  # loads everything
        with throttled_workers(WORKERS, args.share, args.slowdown if slow else 1.0):
            seconds = [timed(steps.step) for _ in range(args.steps)]
        return Case("throttle", name, num_shards, seconds, executor.counts["copies"], digest(steps.params()))


WAYS: dict[str, Callable[[str, int, argparse.Namespace], Case]] = {"sleep": sleeping, "throttle": throttling}


def goal_of(cases: list[Case]) -> Goal:
    """The goal, for the cases of one way."""
    undisturbed, slowed = cases[0], cases[1]
    what = f"{slowed.way}, {slowed.shards} shards a step: {slowed.name}, as a multiple of the undisturbed step"
    return Goal(what, median(slowed.later) / median(undisturbed.later), GOAL)


def picture(path: Path, cases: list[Case]) -> None:
    """Draw the steps' seconds as multiples of the undisturbed median; the first case is undisturbed."""
    usual = median(cases[0].later)
    steps = list(range(1, 1 + len(cases[0].seconds)))
    series = {case.name: (steps, [seconds / usual for seconds in case.seconds]) for case in cases}
    title = f"{cases[0].way}: one of {WORKERS} workers slowed, {cases[0].shards} shards a step"
    label = "time, as a multiple of the undisturbed step's"
    training_curves(path, series, xlabel="outer step", ylabel=label, title=title)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--shards", nargs="+", type=int, default=[16, 24], help="of a step")
    parser.add_argument("--slowdown", type=float, default=8.0)
    parser.add_argument("--shard-s", type=float, default=0.1, help="sleep: seconds of a shard")
    parser.add_argument("--shard-tasks", type=int, default=2, help="throttle: tasks of a shard")
    parser.add_argument("--share", type=float, default=0.4, help="throttle: of a core, for each worker")
    args = parser.parse_args()
    if args.steps <= FIRST_STEPS:
        parser.error(f"--steps must be above {FIRST_STEPS}")
    report = Report("stragglers", args.out)
    groups: dict[str, list[Case]] = {}
    rows = []
    with session(RuntimeConfig(workers=WORKERS, cpus_per_worker=CPUS_PER_WORKER)):
        for way, num_shards in itertools.product(args.ways, args.shards):
            cases = groups[f"stragglers_{way}_{num_shards}"] = []
            for name in CASES:
                cases.append(WAYS[way](name, num_shards, args))
                rows.append(cases[-1].row(cases[0], args.slowdown))
                print(", ".join(f"{title}: {value}" for title, value in rows[-1].items()), flush=True)
    print_table(rows, f"one of {WORKERS} workers {args.slowdown:g} times slower")
    verdicts = [str(goal_of(cases)) for cases in groups.values()]
    print("\n".join(verdicts))
    all_cases = [asdict(case) for cases in groups.values() for case in cases]
    report.write(settings=settings(args), cases=all_cases, verdicts=verdicts)
    if args.out is not None:
        for file_name, cases in groups.items():
            picture(args.out / f"{file_name}.png", cases)


if __name__ == "__main__":
    run_main(main)
