"""Cost of Ray: tasks per second of one process, of one Ray worker and of two, on the same outer steps.

All three run the code path of training (prefetched tasks, updates on their way, sums and steps of the server) with one
thread each. They stay alive and take turns within a round, so that a drift of the machine's speed affects all alike;
ratios are medians over the rounds. `barrier` is two processes that share nothing but a barrier after every step: the
most that two workers can reach on this machine's cores. CPU seconds are those of all processes together; they give the
cost of a method even where other processes use the machine.

The network is conv4. Tasks are those of jobs/omniglot.py:maml where Omniglot's store has been imported, else drawn
characters of the same size.

    python -m benchmarks.cluster.workers --out runs/bench
    python -m benchmarks.cluster.workers --strategies loop --shards 16 --rounds 3 --seconds 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from statistics import median

import psutil

from benchmarks.cluster.common.steps import (
    CPUS_PER_WORKER,
    FIXED,
    IndependentProcesses,
    OuterSteps,
    session,
    start_executor,
)
from benchmarks.report import Goal, Report
from benchmarks.scripts import load_job, options, run_main, settings
from benchmarks.timing import interleaved, repeats_for, timed
from distmeta.cli.output import print_table
from distmeta.config import RunConfig, RuntimeConfig
from distmeta.config.load import change
from distmeta.data.catalog import list_stores
from distmeta.runtime.executor import Executor

RUNTIMES = {
    "local": ["runtime.executor=local"],
    "ray 1": ["runtime.executor=ray", "runtime.workers=1"],
    "ray 2": ["runtime.executor=ray", "runtime.workers=2"],
}
LOCAL, ONE, TWO = RUNTIMES
BARRIER = "barrier"
# The speed of the first over that of the second.
RATIOS = {"ray 1 / local": (ONE, LOCAL), "ray 2 / ray 1": (TWO, ONE), "barrier / local": (BARRIER, LOCAL)}
GOALS = {"ray 1 / local": 0.95, "ray 2 / ray 1": 1.9}
GLYPHS = "tasks={source: glyphs, way: 5, shots: 1, queries: 1, eval_queries: 1}"
WARM_UP, CPU_ROUNDS = 3, 2


@dataclass(frozen=True)
class Measured:
    """One way to compute the steps: seconds and CPU seconds of a step, by runtime and round."""

    strategy: str
    shard_size: int
    tasks: int
    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]

    def ratio(self, name: str) -> float:
        """Speed of the first runtime over that of the second: the median over the rounds."""
        first, second = RATIOS[name]
        pairs = zip(self.seconds[first], self.seconds[second], strict=True)
        return median(slower / faster for faster, slower in pairs)

    def row(self) -> dict[str, object]:
        speeds = {name: f"{self.tasks / median(seconds):.1f}" for name, seconds in self.seconds.items()}
        costs = {f"CPU {name}": f"{median(seconds):.3f}" for name, seconds in self.cpu_seconds.items()}
        shards = f"{math.ceil(self.tasks / self.shard_size)} x {self.shard_size}"
        ratios = {name: f"{self.ratio(name):.3f}" for name in RATIOS}
        return {"strategy": self.strategy, "shards": shards, **speeds, **ratios, **costs}

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "ratios": {name: self.ratio(name) for name in RATIOS}}


def measure(config: RunConfig, executors: dict[str, Executor], rounds: int, turn_s: float) -> Measured:
    """Let all runtimes take turns on the same run."""
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {
            name: OuterSteps(config, executor, stack).step for name, executor in executors.items()
        }
        runs[BARRIER] = stack.enter_context(closing(IndependentProcesses(config))).step
        repeats = {name: repeats_for(min(timed(run) for _ in range(WARM_UP)), turn_s) for name, run in runs.items()}
        seconds = interleaved(runs, rounds, repeats)
        cpu_seconds = interleaved(runs, CPU_ROUNDS, repeats, tree_cpu_s)
    return Measured(
        config.engine.strategy, config.runtime.shard_size, config.train.tasks_per_step, seconds, cpu_seconds
    )


def tree_cpu_s() -> float:
    """CPU seconds of this process and all below it; none of them may end between two calls."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(cpu.user + cpu.system for cpu in times))


def goals_of(results: list[Measured]) -> list[Goal]:
    """The goals, each by the best way to cut a step into shards."""
    goals = []
    for name, bound in GOALS.items():
        for strategy in dict.fromkeys(result.strategy for result in results):
            ratio, size = max((each.ratio(name), each.shard_size) for each in results if each.strategy == strategy)
            goals.append(Goal(f"{name}, {strategy}, shards of {size}", ratio, bound, at_least=True))
    return goals


def main() -> None:
    parser = options(__doc__, overrides=True)
    parser.add_argument("--strategies", nargs="+", default=["loop", "compiled"])
    parser.add_argument("--shards", nargs="+", type=int, default=[16, 8], help="tasks of a shard")
    parser.add_argument("--tasks", type=int, default=32, help="tasks of a step")
    parser.add_argument("--source", choices=("auto", "omniglot", "glyphs"), default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    args = parser.parse_args()
    omniglot = args.source == "omniglot" or (args.source == "auto" and "omniglot" in list_stores())
    tasks = [f"train.tasks_per_step={args.tasks}", *([] if omniglot else [GLYPHS])]
    config = load_job("omniglot.py:maml", *FIXED, *tasks, *args.set)
    report = Report("workers", args.out)
    print(f"conv4 on {config.tasks.source}", flush=True)
    results = []
    with session(RuntimeConfig(workers=3, cpus_per_worker=CPUS_PER_WORKER)) as stack:
        executors = {name: start_executor(change(config, changes), stack) for name, changes in RUNTIMES.items()}
        for strategy in args.strategies:
            for size in args.shards:
                changed = change(config, [f"engine.strategy={strategy}", f"runtime.shard_size={size}"])
                results.append(measure(changed, executors, args.rounds, args.seconds))
                print(", ".join(f"{name} {value}" for name, value in results[-1].row().items()), flush=True)
    print_table([result.row() for result in results], "tasks per second; ratios; CPU seconds of a step")
    lines = [str(goal) for goal in goals_of(results)]
    print("\n".join(lines))
    report.write(settings=settings(args), cells=[result.to_json() for result in results], verdicts=lines)


if __name__ == "__main__":
    run_main(main)
