"""Synchronous and asynchronous training side by side, with all workers alike and with one of them slowed.

Workers are stopped and continued from outside, so that each has a fixed share of a core, as on a machine of its own;
the slow one has a quarter of that. Every case trains for the same seconds. Afterwards its meta-parameters of many
moments are scored on the same test tasks, at full speed and off the clock: after the same number of outer steps in all
cases, and after the same time.

`stale` updates were older than `outer.staleness` versions and thrown away; `age` is the mean over the others.

    python benchmarks/cluster/asynchronous.py --out runs/bench
    python benchmarks/cluster/asynchronous.py --runs sine_reptile --seconds 10
    python benchmarks/cluster/asynchronous.py --runs omniglot_reptile --seconds 120 --workers 2 --share 0.8
"""

import argparse
import json
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster.outer import CPUS, OuterSteps, executor_of, session
from benchmarks.cluster.throttle import throttled, worker_processes
from benchmarks.machine import busy_share, hardware, hardware_line
from distmeta.cli.output import print_table
from distmeta.config import OuterConfig, Phase, RunConfig
from distmeta.config.load import change, load_config
from distmeta.core.types import Params, Snapshot
from distmeta.methods import fomaml, reptile
from distmeta.methods.build import protocol_of
from distmeta.program.program import MetaProgram
from distmeta.program.scoring import headline
from distmeta.tracking.plots import training_curves
from distmeta.training.evaluate import evaluate_shards, make_shards

JOBS = Path(__file__).parents[2] / "jobs"
POINTS = 24
SYNCHRONOUS, ASYNCHRONOUS = "synchronous", "asynchronous"
CASES = {
    f"{mode}{slow and ', one slow'}": (mode, bool(slow))
    for slow in ("", "slow")
    for mode in (SYNCHRONOUS, ASYNCHRONOUS)
}


def sine(algorithm: str) -> RunConfig:
    """Sine waves with shards of a few milliseconds."""
    config = load_config(str(JOBS / "sinusoid.py:maml"), ["train.tasks_per_step=48", "runtime.shard_size=8"])
    if algorithm == "fomaml":
        return config.model_copy(update={"algorithm": fomaml(lr=0.01, steps=1, eval_steps=10)})
    settings = reptile()
    phase = Phase(lr=0.02, steps=10)
    learner = settings.learner.model_copy(
        update={"phases": (phase,), "eval_phases": (phase.model_copy(update={"steps": 20}),)}
    )
    outer = OuterConfig(optimizer="SGD", lr=1.0)
    return config.model_copy(update={"algorithm": settings.model_copy(update={"learner": learner}), "outer": outer})


def omniglot() -> RunConfig:
    """Reptile on Omniglot, six shards of one task each."""
    return load_config(str(JOBS / "omniglot.py:reptile"), ["runtime.shard_size=1"])


RUNS = {
    "sine_reptile": lambda: sine("reptile"),
    "sine_fomaml": lambda: sine("fomaml"),
    "omniglot_reptile": omniglot,
}


@dataclass(frozen=True)
class Kept:
    """Meta-parameters of a moment."""

    step: int
    seconds: float
    params: Params


@dataclass
class Case:
    """What one case came to.

    Attributes:
        steps, seconds, score: Curve of the test score (loss, or accuracy) of what was kept.
        staleness: Mean age of the updates used, in versions.
    """

    run: str
    name: str
    tasks_per_s: float
    steps_per_s: float
    stale: int
    staleness: float
    copies: int
    metric: str
    steps: list[int]
    seconds: list[float]
    score: list[float]

    def row(self, group: Sequence["Case"]) -> dict[str, Any]:
        """One line of the table, beside the other cases of the run."""
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
            f"{self.metric} after {step} steps": f"{self._at(self.steps, step):.4f}",
            f"after {seconds:.0f} s": f"{self._at(self.seconds, seconds):.4f}",
        }

    def _at(self, places: Sequence[float], place: float) -> float:
        """The score at the last moment kept that is not beyond a place."""
        return self.score[max(0, bisect_right(places, place) - 1)]


def case(run: str, name: str, chosen: argparse.Namespace) -> tuple[Case, list[Kept]]:
    """Train for a while; scores are still missing."""
    mode, slow = CASES[name]
    staleness = chosen.staleness if mode == ASYNCHRONOUS else "null"
    config = configured(run, chosen, [f"outer.staleness={staleness}", f"runtime.workers={chosen.workers}"])
    with ExitStack() as stack:
        executor = executor_of(config, stack)
        outer = OuterSteps(config, executor, stack)
        executor.ready()
        outer.step()  # everything is loaded
        before = executor.counts["stale"], executor.counts["copies"]
        shares = dict.fromkeys(worker_processes(chosen.workers), chosen.share)
        if slow:
            shares[next(iter(shares))] /= chosen.slowdown
        stack.enter_context(throttled(shares))
        kept, tasks, ages, started = [Kept(outer.version, 0.0, outer.params())], 0, [], time.perf_counter()
        while kept[-1].seconds < chosen.seconds:
            step = outer.step()
            tasks += step.tasks
            ages.append(step.record.outer.get("staleness_mean", 0.0))
            seconds = time.perf_counter() - started
            if seconds >= len(kept) * chosen.seconds / POINTS or seconds >= chosen.seconds:
                kept.append(Kept(outer.version, seconds, outer.params()))
        steps, seconds = kept[-1].step - kept[0].step, kept[-1].seconds
        stale, copies = executor.counts["stale"] - before[0], executor.counts["copies"] - before[1]
    age = sum(ages) / len(ages)
    return Case(run, name, tasks / seconds, steps / seconds, stale, age, copies, "", [], [], []), kept


def configured(run: str, chosen: argparse.Namespace, changes: Sequence[str]) -> RunConfig:
    """A run with what this measurement is about held fixed."""
    fixed = [f"runtime.cpus_per_worker={CPUS}", "runtime.tolerance.heartbeat_timeout_s=120", "train.steps=1000000"]
    return change(RUNS[run](), [*fixed, f"engine.strategy={chosen.strategy}", *changes, *chosen.set])


def scored(found: Case, kept: Sequence[Kept], chosen: argparse.Namespace) -> Case:
    """Score what was kept on the same test tasks, in this process."""
    config = configured(found.run, chosen, ["runtime.executor=local", "engine.strategy=vmap", "runtime.shard_size=50"])
    with ExitStack() as stack:
        executor = executor_of(config, stack)
        shards = make_shards(MetaProgram(config).source, "test", 0, chosen.test_tasks, config.runtime.shard_size)
        for moment in kept:
            scores = evaluate_shards(executor, config.engine, Snapshot(moment.step, moment.params), shards)
            best = headline(scores, protocol_of(config))
            found.metric = best.metric
            found.steps.append(moment.step)
            found.seconds.append(moment.seconds)
            found.score.append(best.mean[-1])
    return found


def verdict(group: Sequence[Case]) -> str:
    """What being asynchronous is worth with a slow worker."""
    rates = {one.name: one.tasks_per_s for one in group}
    alike, slowed = list(CASES)[:2], list(CASES)[2:]
    pairs = zip((SYNCHRONOUS, ASYNCHRONOUS), alike, slowed, strict=True)
    kept = ", ".join(f"{mode} {rates[slow] / rates[even]:.0%}" for mode, even, slow in pairs)
    gain = rates[slowed[1]] / rates[slowed[0]]
    return f"{group[0].run}: tasks/s kept with one slow worker: {kept}; asynchronous over synchronous then: {gain:.2f}"


def main() -> None:
    """Run all cases, score them, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", nargs="+", choices=list(RUNS), default=["sine_reptile", "sine_fomaml"])
    options.add_argument("--seconds", type=float, default=60.0, help="of training in each case")
    options.add_argument("--workers", type=int, default=3)
    options.add_argument("--share", type=float, default=0.5, help="of a core, for each worker")
    options.add_argument("--slowdown", type=float, default=4.0)
    options.add_argument("--staleness", type=int, default=4)
    options.add_argument("--strategy", default="vmap", help="of the engine")
    options.add_argument("--test-tasks", type=int, default=200)
    options.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options.add_argument("--out", type=Path, default=None, metavar="DIR", help="write JSON and PNGs there")
    chosen = options.parse_args()
    machine, busy = hardware(), busy_share()
    print(f"{hardware_line(machine)}; others busy {busy:.0%}", flush=True)
    groups = []
    with session(chosen.workers):
        for run in chosen.runs:
            group = []
            for name in CASES:
                group.append(scored(*case(run, name, chosen), chosen))
                print(f"{run}, {name}: {group[-1].tasks_per_s:.0f} tasks/s, {group[-1].score[-1]:.4f}", flush=True)
            groups.append(group)
    for group in groups:
        title = f"{chosen.workers} workers of {chosen.share:g} cores each, one {chosen.slowdown:g} times slower"
        print_table([one.row(group) for one in group], title)
    verdicts = [verdict(group) for group in groups]
    print("\n".join(verdicts))
    if chosen.out is None:
        return
    chosen.out.mkdir(parents=True, exist_ok=True)
    content = {"hardware": machine, "busy": busy, "settings": {**vars(chosen), "out": str(chosen.out)}}
    content |= {"cases": [asdict(one) for group in groups for one in group], "verdicts": verdicts}
    (chosen.out / "asynchronous.json").write_text(json.dumps(content, indent=1))
    for group in groups:
        series = {one.name: (one.seconds, one.score) for one in group}
        path, metric = chosen.out / f"asynchronous_{group[0].run}.png", group[0].metric
        training_curves(path, series, xlabel="seconds of training", ylabel=f"test {metric}", title=group[0].run)


if __name__ == "__main__":
    main()
