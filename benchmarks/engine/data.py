"""`distmeta bench data`: seconds to build a shard's episodes beside the engine's step on the same shard.

Workers build the next shard's episodes while a step is computed: a share above 100% means that they wait. Every round
builds the tasks of another step, so that nothing is found ready.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.engine.contenders import make_contender
from benchmarks.engine.problems import PROBLEMS, Problem
from benchmarks.engine.work import make_work
from benchmarks.machine import synchronise
from benchmarks.timing import interleaved, median, timed
from distmeta.config.tasks import StoreTasks
from distmeta.data.catalog import list_stores
from distmeta.methods.build import dtype_of
from distmeta.tasks import build_source

STORE = "omniglot"


@dataclass(frozen=True)
class Share:
    """One source's result.

    Attributes:
        source: Name of the task source, with that of its store.
        row: The problem that the step computes.
        tasks: T.
        build_s, step_s: Median seconds of both.
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
        """All of it, for programs."""
        values = {"source": self.source, "row": self.row, "tasks": self.tasks, "build_s": self.build_s}
        return {**values, "step_s": self.step_s, "share": self.share, "built_tasks_per_s": self.tasks / self.build_s}


def sources() -> dict[str, Problem]:
    """The problems by source: sine waves, drawn characters, and Omniglot's store where it has been imported."""
    conv4 = PROBLEMS["conv4_5w1s_15q_1"].resized(16)
    found = {"sinusoid": PROBLEMS["sine_25x1"], "glyphs": conv4}
    if STORE in list_stores():
        tasks = StoreTasks(store=STORE, rotations=True, way=5, shots=1, queries=15)
        found[f"images: {STORE}"] = replace(conv4, config=conv4.config.model_copy(update={"tasks": tasks}))
    return found


def bench_source(name: str, problem: Problem, strategy: str, threads: int, rounds: int) -> Share:
    """Time one source and its step, in turn.

    Args:
        name: The source's name.
        problem: Tasks and method.
        strategy: The engine's.
        threads: Lanes.
        rounds: Timed rounds.
    """
    config, device = problem.config, problem.config.runtime.device
    source, work = build_source(config.tasks, config.seed, dtype_of(config)), make_work(config)
    compute = make_contender(strategy, work, threads, threads).run
    step = iter(range(1, rounds + 2))

    def build() -> None:
        source.episodes(source.specs("train", next(step), work.num_tasks))

    def update() -> None:
        compute()
        synchronise(device)

    runs: dict[str, Callable[[], None]] = {"build": build, "step": update}
    for run in runs.values():
        timed(run)  # once before: what is loaded or compiled on the first call is not counted
    seconds = interleaved(runs, rounds, dict.fromkeys(runs, 1))
    return Share(name, problem.name, work.num_tasks, median(seconds["build"]), median(seconds["step"]))
