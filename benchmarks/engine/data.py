"""`distmeta bench data`: seconds to build a shard's episodes beside the engine's step on the same shard.

Workers build the next shard's episodes during a step: with a share above 100% they wait for data. Every round builds
the tasks of another step, so that no cache serves them.
"""

from __future__ import annotations

from dataclasses import replace
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


def sources() -> dict[str, Problem]:
    """The problems by source: sine waves, drawn characters, and Omniglot's store where it has been imported."""
    conv4 = PROBLEMS["conv4_5w1s_15q_1"].resized(16)
    problems = {"sinusoid": PROBLEMS["sine_25x1"], "glyphs": conv4}
    if STORE in list_stores():
        tasks = StoreTasks(store=STORE, rotations=True, way=5, shots=1, queries=15)
        problems[f"images: {STORE}"] = replace(conv4, config=conv4.config.model_copy(update={"tasks": tasks}))
    return problems


def bench_source(name: str, problem: Problem, strategy: str, lanes: int, rounds: int) -> dict[str, object]:
    """Time a source and the engine's step in turn. Returns median seconds; `share` is building over the step."""
    config, num_tasks = problem.config, problem.num_tasks
    source = build_source(config.tasks, config.seed, dtype_of(config))
    steps = iter(range(1, rounds + 2))

    def build() -> None:
        source.episodes(source.specs("train", next(steps), num_tasks))

    contender = make_contender(strategy, make_workload(config), lanes, lanes)
    update = synchronised(contender.run, config.runtime.device)
    build()
    update()  # untimed: loads and compiles
    seconds = interleaved({"build": build, "step": update}, rounds)
    build_s, step_s = median(seconds["build"]), median(seconds["step"])
    numbers = {
        "build_s": build_s,
        "step_s": step_s,
        "share": build_s / step_s,
        "built_tasks_per_s": num_tasks / build_s,
    }
    return {"source": name, "row": problem.name, "tasks": num_tasks, **numbers}
