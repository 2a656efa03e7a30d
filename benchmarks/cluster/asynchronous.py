"""Synchronous and asynchronous training side by side, with equal workers and with one of them slowed.

Workers are stopped and continued from outside, so that each has a fixed share of a core, as on a machine of its own;
the slow one has a quarter of that. Every case trains for the same seconds. Meta-parameters of many moments are then
scored on the same test tasks, at full speed and off the clock: after the same number of outer steps in all cases, and
after the same time.

`stale` counts the updates that were discarded because they were older than `outer.staleness` versions; `age` is the
mean age of the others in versions.

    python -m benchmarks.cluster.asynchronous --out runs/bench
    python -m benchmarks.cluster.asynchronous --runs sine_reptile --seconds 10
    python -m benchmarks.cluster.asynchronous --runs omniglot_reptile --seconds 120 --workers 2 --share 0.8
"""

from __future__ import annotations

import argparse
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import mean

from benchmarks.cluster.common.steps import CPUS_PER_WORKER, FIXED, OuterSteps, session, start_executor
from benchmarks.cluster.common.throttle import throttled_workers
from benchmarks.report import Report
from benchmarks.scripts import load_job, options, run_main, settings
from distmeta.cli.output import print_table
from distmeta.config import EvaluateConfig, OuterConfig, Phase, RunConfig, RuntimeConfig
from distmeta.config.load import change
from distmeta.core.types import Params, Snapshot
from distmeta.methods import fomaml, reptile
from distmeta.methods.build import protocol_of
from distmeta.program.program import MetaProgram
from distmeta.program.scoring import headline
from distmeta.tracking.plots import training_curves
from distmeta.training.evaluate import evaluate_shards

POINTS = 24
SYNCHRONOUS, ASYNCHRONOUS = "synchronous", "asynchronous"
# Mode, and whether one worker is slow.
CASES = {
    f"{mode}{', one slow' if slow else ''}": (mode, slow)
    for slow in (False, True)
    for mode in (SYNCHRONOUS, ASYNCHRONOUS)
}


def sine(algorithm: str) -> RunConfig:
    """Sine waves with shards of a few milliseconds."""
    config = load_job("sinusoid.py:maml", "train.tasks_per_step=48", "runtime.shard_size=8")
    if algorithm == "fomaml":
        return config.model_copy(update={"algorithm": fomaml(lr=0.01, steps=1, eval_steps=10)})
    method = reptile()
    learner = method.learner.model_copy(update={"phases": (Phase(lr=0.02, steps=10),)})
    method = method.model_copy(update={"learner": learner, "evaluate": EvaluateConfig(steps=20)})
    return config.model_copy(update={"algorithm": method, "outer": OuterConfig(optimizer="SGD", lr=1.0)})


RUNS = {
    "sine_reptile": lambda: sine("reptile"),
    "sine_fomaml": lambda: sine("fomaml"),
    "omniglot_reptile": lambda: load_job("omniglot.py:reptile", "runtime.shard_size=1"),
}


Moment = tuple[int, float, Params]
"""Number of steps, seconds and meta-parameters during training."""


@dataclass
class Case:
    """The result of one case.

    Attributes:
        stale: Number of updates that were discarded.
        staleness: Mean age of the updates used, in versions.
        copies: Number of copies of late shards.
        steps, seconds, score: Curve of the test metric (loss or accuracy).
    """

    run: str
    name: str
    tasks_per_s: float
    steps_per_s: float
    stale: int
    staleness: float
    copies: int
    metric: str = ""
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    def row(self, group: Sequence[Case]) -> dict[str, object]:
        """The line of the table, beside the other cases of the run; the first one is synchronous."""
        step, seconds = min(case.steps[-1] for case in group), min(case.seconds[-1] for case in group)
        return {
            "run": self.run,
            "case": self.name,
            "tasks/s": f"{self.tasks_per_s:.0f}",
            "x sync": f"{self.tasks_per_s / group[0].tasks_per_s:.2f}",
            "steps/s": f"{self.steps_per_s:.2f}",
            "stale": self.stale,
            "age": f"{self.staleness:.2f}",
            "copies": self.copies,
            f"{self.metric} after {step} steps": f"{self._score_at(self.steps, step):.4f}",
            f"after {seconds:.0f} s": f"{self._score_at(self.seconds, seconds):.4f}",
        }

    def _score_at(self, places: Sequence[float], place: float) -> float:
        """The score at the last moment that is not beyond a place."""
        return self.score[max(0, bisect_right(places, place) - 1)]


def train_case(run: str, name: str, args: argparse.Namespace) -> tuple[Case, list[Moment]]:
    """Train for some seconds. Returns the case without scores, and the moments to score."""
    mode, slow = CASES[name]
    staleness = args.staleness if mode == ASYNCHRONOUS else "null"
    config = configured(run, args, f"outer.staleness={staleness}", f"runtime.workers={args.workers}")
    with ExitStack() as stack:
        executor = start_executor(config, stack)
        outer = OuterSteps(config, executor, stack)
        outer.step()  # loads everything
        before = executor.counts.copy()
        stack.enter_context(throttled_workers(args.workers, args.share, args.slowdown if slow else 1.0))
        moments, steps, started, seconds = [(outer.version, 0.0, outer.params())], [], time.perf_counter(), 0.0
        while seconds < args.seconds:
            steps.append(outer.step())
            seconds = time.perf_counter() - started
            if seconds >= min(len(moments) / POINTS, 1.0) * args.seconds:
                moments.append((outer.version, seconds, outer.params()))
        counts = executor.counts - before
    tasks_per_s, steps_per_s = sum(step.tasks for step in steps) / seconds, len(steps) / seconds
    age = mean(step.record.outer.get("staleness_mean", 0.0) for step in steps)
    return Case(run, name, tasks_per_s, steps_per_s, counts["stale"], age, counts["copies"]), moments


def configured(run: str, args: argparse.Namespace, *changes: str) -> RunConfig:
    """A run's configuration with the settings of this measurement."""
    return change(RUNS[run](), [*FIXED, f"engine.strategy={args.strategy}", *changes, *args.set])


def score(case: Case, moments: Sequence[Moment], args: argparse.Namespace) -> Case:
    """Score the moments of a case on the same test tasks, in this process."""
    config = configured(case.run, args, "runtime.executor=local", "engine.strategy=vmap", "runtime.shard_size=50")
    with ExitStack() as stack:
        executor = start_executor(config, stack)
        program = MetaProgram(config)
        stack.callback(program.close)
        shards = program.source.shards("test", 0, args.test_tasks, config.runtime.shard_size)
        for step, seconds, params in moments:
            scores = evaluate_shards(executor, config.engine, Snapshot(step, params), shards)
            result = headline(scores, protocol_of(program.algorithm))
            case.metric = result.metric
            case.steps.append(step)
            case.seconds.append(seconds)
            case.score.append(result.mean[-1])
    return case


def verdict(group: Sequence[Case]) -> str:
    """Throughput kept with a slow worker by both modes, and the gain of the asynchronous one."""
    sync, asynchronous, slow_sync, slow_asynchronous = (case.tasks_per_s for case in group)
    kept = f"{SYNCHRONOUS} {slow_sync / sync:.0%}, {ASYNCHRONOUS} {slow_asynchronous / asynchronous:.0%}"
    gain = f"{ASYNCHRONOUS} over {SYNCHRONOUS} then: {slow_asynchronous / slow_sync:.2f}"
    return f"{group[0].run}: tasks/s kept with one slow worker: {kept}; {gain}"


def main() -> None:
    parser = options(__doc__, overrides=True)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=["sine_reptile", "sine_fomaml"])
    parser.add_argument("--seconds", type=float, default=60.0, help="of training in each case")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.5, help="of a core, for each worker")
    parser.add_argument("--slowdown", type=float, default=4.0)
    parser.add_argument("--staleness", type=int, default=4)
    parser.add_argument("--strategy", default="vmap", help="of the engine")
    parser.add_argument("--test-tasks", type=int, default=200)
    args = parser.parse_args()
    report = Report("asynchronous", args.out)
    groups: list[list[Case]] = []
    with session(RuntimeConfig(workers=args.workers, cpus_per_worker=CPUS_PER_WORKER)):
        for run in args.runs:
            groups.append([])
            for name in CASES:
                case = score(*train_case(run, name, args), args)
                groups[-1].append(case)
                print(f"{run}, {name}: {case.tasks_per_s:.0f} tasks/s, {case.score[-1]:.4f}", flush=True)
    for group in groups:
        title = f"{args.workers} workers of {args.share:g} cores each, one {args.slowdown:g} times slower"
        print_table([case.row(group) for case in group], title)
    verdicts = [verdict(group) for group in groups]
    print("\n".join(verdicts))
    cases = [asdict(case) for group in groups for case in group]
    report.write(settings=settings(args), cases=cases, verdicts=verdicts)
    if args.out is not None:
        for group in groups:
            run, label = group[0].run, f"test {group[0].metric}"
            series = {case.name: (case.seconds, case.score) for case in group}
            path = args.out / f"asynchronous_{run}.png"
            training_curves(path, series, xlabel="seconds of training", ylabel=label, title=run)


if __name__ == "__main__":
    run_main(main)
