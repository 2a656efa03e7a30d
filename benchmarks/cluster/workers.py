"""What Ray costs: tasks per second of one process, of one Ray worker and of two, on the same outer steps.

All three take the code path of training (prefetched tasks, updates on their way, sums and steps of the server), one
thread each. They stay alive and take turns within a round, so that a machine that slows down slows them all down;
ratios are medians over the rounds. `barrier` is two processes that share nothing but a barrier after every step: what
the machine's two cores are worth, and so the most that two workers can be. CPU seconds are those of all processes
together; they say what a method costs even where others use the machine.

The network is conv4. Tasks are Omniglot's as in jobs/omniglot.py:maml where its store is at hand, else drawn
characters of the same size.

    python benchmarks/cluster/workers.py --out runs/bench
    python benchmarks/cluster/workers.py --strategies loop --shards 16 --rounds 3 --seconds 1
"""

import argparse
import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.outer import CPUS, OuterSteps, executor_of, session
from benchmarks.cluster.pair import Barrier
from benchmarks.machine import busy_share, hardware, hardware_line
from benchmarks.timing import interleaved, median, timed
from distmeta.cli.output import print_table
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config
from distmeta.core.errors import UserError
from distmeta.data.catalog import open_store
from distmeta.runtime.executor import Executor

RUNTIMES = {
    "local": ["runtime.executor=local"],
    "ray 1": ["runtime.executor=ray", "runtime.workers=1"],
    "ray 2": ["runtime.executor=ray", "runtime.workers=2"],
}
LOCAL, ONE, TWO = RUNTIMES
BARRIER = "barrier"
# Of the speed of the first over that of the second.
RATIOS = {
    "ray 1 / local": (ONE, LOCAL, 0.95),
    "ray 2 / ray 1": (TWO, ONE, 1.9),
    "barrier / local": (BARRIER, LOCAL, None),
}
WARM_UP, CPU_ROUNDS = 3, 2
JOBS = Path(__file__).parents[2] / "jobs"


def base(tasks: str, changes: list[str]) -> RunConfig:
    """The run: its job, with what this measurement is about held fixed."""
    fixed = ["train.steps=1000000", f"runtime.cpus_per_worker={CPUS}", "runtime.tolerance.heartbeat_timeout_s=600"]
    if tasks == "omniglot" or (tasks == "auto" and _at_hand("omniglot")):
        return load_config(str(JOBS / "omniglot.py:maml"), [*fixed, *changes])
    glyphs = "tasks={source: glyphs, way: 5, shots: 1, queries: 1, eval_queries: 1}"
    return load_config(str(JOBS / "omniglot.py:maml"), [*fixed, glyphs, *changes])


def _at_hand(store: str) -> bool:
    try:
        open_store(store)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Cell:
    """One way to compute the steps, and what was measured: seconds and CPU seconds of a step, in each round."""

    strategy: str
    shard_size: int
    tasks: int
    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]

    def ratio(self, name: str) -> float:
        """How many times as fast, by round; the median."""
        first, second, _ = RATIOS[name]
        pairs = zip(self.seconds[first], self.seconds[second], strict=True)
        return median([slower / faster for faster, slower in pairs])

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        speeds = {name: f"{self.tasks / median(found):.1f}" for name, found in self.seconds.items()}
        costs = {f"CPU {name}": f"{median(found):.3f}" for name, found in self.cpu_seconds.items()}
        shards = f"{math.ceil(self.tasks / self.shard_size)} x {self.shard_size}"
        ratios = {name: f"{self.ratio(name):.3f}" for name in RATIOS}
        return {"strategy": self.strategy, "shards": shards, **speeds, **ratios, **costs}

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "ratios": {name: self.ratio(name) for name in RATIOS}}


def measure(config: RunConfig, executors: dict[str, Executor], rounds: int, turn_s: float) -> Cell:
    """Let all take turns on the same run."""
    with ExitStack() as stack:
        steps = {name: OuterSteps(config, executor, stack) for name, executor in executors.items()}
        runs: dict[str, Callable[[], object]] = {name: one.step for name, one in steps.items()}
        runs[BARRIER] = stack.enter_context(Barrier(config)).step
        repeats = {}
        for name, run in runs.items():
            step_s = min(timed(run) for _ in range(WARM_UP))
            repeats[name] = max(1, round(turn_s / step_s))
        seconds = interleaved(runs, rounds, repeats)
        cpu_seconds = interleaved(runs, CPU_ROUNDS, repeats, tree_cpu_s)
    return Cell(config.engine.strategy, config.runtime.shard_size, config.train.tasks_per_step, seconds, cpu_seconds)


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it; none of them may end meanwhile."""
    own = psutil.Process()
    used = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(one.user + one.system for one in used))


def verdicts(cells: list[Cell]) -> list[str]:
    """Which goals are reached, by the best way to cut a step into shards."""
    lines = []
    for name, (_, _, goal) in RATIOS.items():
        if goal is None:
            continue
        for strategy in dict.fromkeys(cell.strategy for cell in cells):
            best = max((cell for cell in cells if cell.strategy == strategy), key=lambda cell: cell.ratio(name))
            reached = "reached" if best.ratio(name) >= goal else "NOT reached"
            shards = f"shards of {best.shard_size}"
            lines.append(f"{name}, {strategy}: {best.ratio(name):.3f} with {shards}; goal {goal:g} {reached}")
    return lines


def main() -> None:
    """Measure each way and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--strategies", nargs="+", default=["loop", "compiled"])
    options.add_argument("--shards", nargs="+", type=int, default=[16, 8], help="tasks of a shard")
    options.add_argument("--tasks", type=int, default=32, help="tasks of a step")
    options.add_argument("--source", choices=("auto", "omniglot", "glyphs"), default="auto")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    options.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options.add_argument("--out", type=Path, default=None, metavar="DIR", help="write workers.json there")
    chosen = options.parse_args()
    config = base(chosen.source, [f"train.tasks_per_step={chosen.tasks}", *chosen.set])
    machine, busy = hardware(), busy_share()
    print(f"{hardware_line(machine)}; others busy {busy:.0%}; conv4 on {config.tasks.source}", flush=True)
    cells = []
    with session(workers=3) as stack:
        executors = {name: executor_of(change(config, changes), stack) for name, changes in RUNTIMES.items()}
        for executor in executors.values():
            executor.ready()
        for strategy in chosen.strategies:
            for size in chosen.shards:
                cell = change(config, [f"engine.strategy={strategy}", f"runtime.shard_size={size}"])
                cells.append(measure(cell, executors, chosen.rounds, chosen.seconds))
                print(", ".join(f"{name} {value}" for name, value in cells[-1].row().items()), flush=True)
    print_table([cell.row() for cell in cells], "tasks per second; ratios; CPU seconds of a step")
    found = verdicts(cells)
    print("\n".join(found))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        content = {"hardware": machine, "busy": busy, "cells": [cell.to_json() for cell in cells], "verdicts": found}
        (chosen.out / "workers.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
