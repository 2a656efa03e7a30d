"""`distmeta bench data`: seconds to build a shard's episodes beside the engine's step on the same shard.

Workers build the next shard's episodes during a step: with a share above 100% they wait for data. Every round builds
the tasks of another step, so that no cache serves them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import median

from benchmarks.engine.common.contenders import make_contender
from benchmarks.engine.common.problems import PROBLEMS, Problem
from benchmarks.engine.common.workload import make_workload
from benchmarks.machine import synchronised
from benchmarks.timing import interleaved
from distmeta.config.tasks import StoreTasks
from distmeta.data.catalog import list_stores
from distmeta.methods.build import dtype_of
from distmeta.tasks import build_source

STORE = "omniglot"


@dataclass(frozen=True)
class Share:
    """The result of one source.

    Attributes:
        source: Name of the task source.
        row: The problem that the step computes.
        tasks: T.
        build_s, step_s: Median seconds of each.
    """

    source: str
    row: str
    tasks: int
    build_s: float
    step_s: float

    @property
    def share(self) -> float:
        """Seconds of building over those of the step."""
        return self.build_s / self.step_s

    def to_json(self) -> dict[str, object]:
        """All numbers."""
        return {**asdict(self), "share": self.share, "built_tasks_per_s": self.tasks / self.build_s}


def sources() -> dict[str, Problem]:
    """The problems by source: sine waves, drawn characters, and Omniglot's store where it has been imported."""
    conv4 = PROBLEMS["conv4_5w1s_15q_1"].resized(16)
    problems = {"sinusoid": PROBLEMS["sine_25x1"], "glyphs": conv4}
    if STORE in list_stores():
        tasks = StoreTasks(store=STORE, rotations=True, way=5, shots=1, queries=15)
        problems[f"images: {STORE}"] = replace(conv4, config=conv4.config.model_copy(update={"tasks": tasks}))
    return problems


def bench_source(name: str, problem: Problem, strategy: str, threads: int, rounds: int) -> Share:
    """Time one source and its step in turn.

    Args:
        name: The source's name.
        problem: Tasks and method.
        strategy: The engine's.
        threads: Lanes of the engine.
        rounds: Timed rounds.
    """
    config = problem.config
    source, workload = build_source(config.tasks, config.seed, dtype_of(config)), make_workload(config)
    steps = iter(range(1, rounds + 2))

    def build() -> None:
        source.episodes(source.specs("train", next(steps), workload.num_tasks))

    update = synchronised(make_contender(strategy, workload, threads, threads).run, config.runtime.device)
    build()
    update()  # untimed: loads and compiles
    seconds = interleaved({"build": build, "step": update}, rounds)
    return Share(name, problem.name, workload.num_tasks, median(seconds["build"]), median(seconds["step"]))
