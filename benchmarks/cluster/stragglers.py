"""One of four workers is much slower than the others: how long a synchronous step takes, beside the undisturbed one.

Two ways to be slow:

sleep     shards take a fixed time asleep, so four workers run at once on any machine; one sleeps eight times as long
throttle  MAML on conv4; every worker is stopped and continued from outside, so that it has a fixed share of a core, as
          on a machine of its own; one worker has an eighth of that

With and without backup copies of late shards (`runtime.speculate`). The first steps, in which nobody knows yet who is
slow, are shown by themselves. `ideal` is the best that a schedule could do with shards of this number, which cannot be
divided, if it knew everything and cost nothing. The meta-parameters must be the same bits in all cases.

    python benchmarks/cluster/stragglers.py --out runs/bench
    python benchmarks/cluster/stragglers.py --ways sleep --steps 20 --shard-s 0.05
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cluster.outer import CPUS, OuterSteps, executor_of, session
from benchmarks.cluster.sleepers import SleeperRecipe
from benchmarks.cluster.throttle import throttled, worker_processes
from benchmarks.machine import busy_share, hardware, hardware_line
from benchmarks.timing import median
from distmeta.cli.output import print_table
from distmeta.config import OuterConfig, RuntimeConfig
from distmeta.config.load import load_config
from distmeta.core.tensors import digest
from distmeta.core.types import Shard, TaskSpec
from distmeta.runtime import build_executor
from distmeta.server import ParameterServer
from distmeta.tracking.plots import training_curves

WORKERS, FIRST, GOAL = 4, 3, 1.5
CASES = {"undisturbed": (False, True), "slowed, copies": (True, True), "slowed, no copies": (True, False)}
JOB = Path(__file__).parents[2] / "jobs" / "demo.py"


@dataclass(frozen=True)
class Case:
    """The steps of one case: their seconds, copies of shards that were made, and what came out."""

    way: str
    name: str
    shards: int
    seconds: list[float]
    copies: int
    digest: str

    @property
    def later(self) -> list[float]:
        """All but the first steps."""
        return self.seconds[FIRST:]

    def row(self, undisturbed: "Case", slowdown: float) -> dict[str, Any]:
        """One line of the table."""
        usual = median(undisturbed.later)
        return {
            "way": self.way,
            "shards": self.shards,
            "case": self.name,
            "first steps, s": ", ".join(f"{seconds:.2f}" for seconds in self.seconds[:FIRST]),
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
    usual = math.ceil(shards / WORKERS)
    ends = sorted(pace * k for pace in [1.0] * (WORKERS - 1) + [slowdown] for k in range(1, shards + 1))
    return ends[shards - 1] / usual


def sleeping(name: str, count: int, chosen: argparse.Namespace) -> Case:
    """Steps of shards that sleep."""
    slow, speculate = CASES[name]
    runtime = RuntimeConfig(workers=WORKERS, cpus_per_worker=CPUS, speculate=speculate)
    server = ParameterServer({"weight": torch.zeros(4)}, OuterConfig(optimizer="SGD"), chosen.steps)
    shards = [Shard(index, (TaskSpec(index, index, "train"),)) for index in range(count)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        recipe = SleeperRecipe(chosen.shard_s, chosen.slowdown if slow else 1.0, folder)
        executor = build_executor(runtime, recipe)
        stack.callback(executor.close)
        executor.ready()

        def step() -> None:
            for result in executor.map("update", server.pull(), shards, shards):
                server.push(result.value)
            server.step(len(shards))

        seconds = timed_steps(step, chosen.steps)
        return Case("sleep", name, count, seconds, executor.counts["copies"], digest(server.pull().params))


def throttling(name: str, count: int, chosen: argparse.Namespace) -> Case:
    """Steps of MAML on drawn characters, by workers with shares of a core."""
    slow, speculate = CASES[name]
    changes = {
        "runtime.workers": WORKERS,
        "runtime.cpus_per_worker": CPUS,
        "runtime.heartbeat_timeout_s": 120,
        "runtime.speculate": str(speculate).lower(),
        "runtime.shard_size": chosen.shard_tasks,
        "train.tasks_per_step": chosen.shard_tasks * count,
        "engine.strategy": "loop",
    }
    config = load_config(str(JOB), [f"{field}={value}" for field, value in changes.items()])
    with ExitStack() as stack:
        executor = executor_of(config, stack)
        steps = OuterSteps(config, executor, stack)
        executor.ready()
        steps.step()  # everything is loaded
        with shares(chosen.share, chosen.slowdown if slow else 1.0):
            seconds = timed_steps(steps.step, chosen.steps)
        return Case("throttle", name, count, seconds, executor.counts["copies"], digest(steps.params()))


@contextmanager
def shares(share: float, slowdown: float) -> Iterator[None]:
    """Give each worker its share of a core; the first one less."""
    processes = worker_processes(WORKERS)
    given = {process: share / (slowdown if place == 0 else 1.0) for place, process in enumerate(processes)}
    with throttled(given):
        yield


def timed_steps(step: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of so many steps."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds


WAYS = {"sleep": sleeping, "throttle": throttling}


def verdict(cases: list[Case]) -> str:
    """Whether the goal is reached by these cases of one way."""
    undisturbed, slowed = cases[0], cases[1]
    ratio = median(slowed.later) / median(undisturbed.later)
    reached = "reached" if ratio <= GOAL else "NOT reached"
    what = f"{slowed.way}, {slowed.shards} shards a step: {slowed.name}"
    return f"{what}: {ratio:.2f} times the undisturbed step; goal {GOAL:g} {reached}"


def picture(path: Path, cases: list[Case]) -> None:
    """Draw the steps' seconds, as multiples of the undisturbed median; the first case is undisturbed."""
    usual = median(cases[0].later)
    steps = list(range(1, 1 + len(cases[0].seconds)))
    series = {case.name: (steps, [seconds / usual for seconds in case.seconds]) for case in cases}
    title = f"{cases[0].way}: one of {WORKERS} workers slowed, {cases[0].shards} shards a step"
    label = "time, as a multiple of the undisturbed step's"
    training_curves(path, series, xlabel="outer step", ylabel=label, title=title)


def main() -> None:
    """Run all cases, print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--shards", nargs="+", type=int, default=[16, 24], help="of a step")
    options.add_argument("--slowdown", type=float, default=8.0)
    options.add_argument("--shard-s", type=float, default=0.1, help="sleep: seconds of a shard")
    options.add_argument("--shard-tasks", type=int, default=2, help="throttle: tasks of a shard")
    options.add_argument("--share", type=float, default=0.4, help="throttle: of a core, for each worker")
    options.add_argument("--out", type=Path, default=None, metavar="DIR", help="write JSON and PNGs there")
    chosen = options.parse_args()
    if chosen.steps <= FIRST:
        options.error(f"--steps must be above {FIRST}")
    machine, busy = hardware(), busy_share()
    print(f"{hardware_line(machine)}; others busy {busy:.0%}", flush=True)
    rows, groups = [], []
    with session(WORKERS):
        for way, count in itertools.product(chosen.ways, chosen.shards):
            cases: list[Case] = []
            for name in CASES:
                cases.append(WAYS[way](name, count, chosen))
                rows.append(cases[-1].row(cases[0], chosen.slowdown))
                print(", ".join(f"{title}: {value}" for title, value in rows[-1].items()), flush=True)
            groups.append(cases)
    print_table(rows, f"one of {WORKERS} workers {chosen.slowdown:g} times slower")
    verdicts = [verdict(cases) for cases in groups]
    print("\n".join(verdicts))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        content = {"hardware": machine, "busy": busy, "settings": {**vars(chosen), "out": str(chosen.out)}}
        content |= {"cases": [asdict(case) for cases in groups for case in cases], "verdicts": verdicts}
        (chosen.out / "stragglers.json").write_text(json.dumps(content, indent=1))
        for cases in groups:
            picture(chosen.out / f"stragglers_{cases[0].way}_{cases[0].shards}.png", cases)


if __name__ == "__main__":
    main()
