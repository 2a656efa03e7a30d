"""A row for each method with the same seconds of training: Omniglot, 20-way 1-shot, sine waves, and 2D navigation.

    python -m benchmarks.methods.table                                             (five minutes a row and seed)
    python -m benchmarks.methods.table --tasks omniglot --set tasks.way=5 --seconds 600
    python -m benchmarks.methods.table --methods maml protonet --seconds 30 --seeds 3 --out runs/quick

DIR/table.json keeps finished rows, and a row that was cut off goes on from its newest checkpoint: the same command
again does what is left. Left out are methods for other tasks (texts, optimizers, streams, wrong labels) and
the weight generator, which starts from another run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options
from distmeta.methods import METHODS
from distmeta.training import train
from distmeta.training.seeds import student_t

_OMNIGLOT = "omniglot.py"
JOBS = {
    "omniglot": {
        **{name: f"{_OMNIGLOT}:{name}" for name in ("maml", "fomaml", "anil", "meta_sgd", "reptile")},
        **{name: f"{_OMNIGLOT}:{name}" for name in ("imaml", "imaml_hf", "boil", "maml_pp", "cavia")},
        **{name: f"{_OMNIGLOT}:{name}" for name in ("protonet", "proto_maml", "matching", "knn", "r2d2", "nil")},
        **{name: f"{_OMNIGLOT}:{name}" for name in ("lstm", "neural_process", "in_context", "pretrain")},
        "multitask": "feature_reuse.py:multitask",
        "film": "parameter_prediction.py:film",
        "darts": "architecture.py:darts",
    },
    "sinusoid": {
        **{name: f"sinusoid.py:{name}" for name in ("maml", "r2d2", "cavia", "lstm", "neural_process", "in_context")},
        **{name: f"inner_problem.py:{name}" for name in ("hyperparameters", "learned_loss")},
        "pretrain": "sinusoid.py:pretrain",
    },
    "navigation": {
        name: f"rl.py:navigation_{name.removesuffix('_rl')}" for name in ("maml_rl", "fomaml_rl", "anil_rl")
    },
}
"""Tasks -> method -> job."""
SETTINGS = {
    "omniglot": ("tasks.way=20", "evaluation.tasks=100", "evaluation.final_tasks=600"),
    "sinusoid": ("runtime.executor=local", "train.steps=1000000", "checkpoint.every=20000", "evaluation.every=20000"),
    "navigation": ("train.steps=100000", "algorithm.evaluate.steps=1"),
}
OWN_SETTINGS = {"darts": ("tasks.store=omniglot", "tasks.rotations=true", "tasks.queries=1", "tasks.eval_queries=1")}
"""Changes of jobs that are made for other tasks."""
METRICS = {"omniglot": ("accuracy", 100.0), "sinusoid": ("loss", 1.0), "navigation": ("return", 1.0)}
"""Tasks -> what is shown, and its factor."""


def changes(args: argparse.Namespace, tasks: str, method: str, seed: int) -> list[str]:
    name = f"table_{tasks}_{method}_{seed}"
    own = [f"name={name}", f"seed={seed}", f"train.budget_s={args.seconds}", "tracking.kind=none"]
    return [*SETTINGS[tasks], *OWN_SETTINGS.get(method, ()), *own, *args.set]


def mean_of(runs: Sequence[Mapping[str, Any]], protocol: str, metric: str, scale: float) -> str:
    """Mean and 95% interval: over seeds (Student's t), of one seed over its tasks; `-` where it was not scored."""
    scores = [
        score
        for run in runs
        for score in run["scores"]
        if (score["protocol"], score["metric"]) == (protocol, metric) and score["after"] is not None
    ]
    if not scores:
        return "-"
    values = [scale * score["after"] for score in scores]
    half = scale * scores[0]["interval"]
    if len(values) > 1:
        half = student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):.{1 if scale > 1 else 3}f} ± {half:.{1 if scale > 1 else 3}f}"


def table(tasks: str, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table."""
    metric, scale = METRICS[tasks]
    protocols = ("transductive", "inductive") if tasks == "omniglot" else ("inductive",)
    lines = [f"| method | {' | '.join(protocols)} | seeds | steps | tasks/s |", "|---" * (len(protocols) + 4) + "|"]
    for method, by_seed in results.items():
        runs = list(by_seed.values())
        cells = [mean_of(runs, protocol, metric, scale) for protocol in protocols]
        steps, speed = (float(np.mean([run[field] for run in runs])) for field in ("steps", "tasks_per_s"))
        cells += [str(len(runs)), f"{steps:,.0f}", f"{speed:.0f}"]
        lines.append(f"| {METHODS[method].title} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--tasks", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, a row and seed")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    args = parser.parse_args()
    report = Report("table", args.out)
    path = Path(args.out) / "table.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in range(args.seeds):
        for tasks in args.tasks:
            for method in (name for name in args.methods if name in JOBS[tasks]):
                found = results.setdefault(tasks, {}).setdefault(method, {})
                if str(seed) not in found:
                    job = load_job(JOBS[tasks][method], *changes(args, tasks, method, seed))
                    found[str(seed)] = train(job, resume="auto").to_json()
                    report.write(results=results)
    for tasks in args.tasks:
        print("\n".join(["", *table(tasks, results[tasks])]) if results.get(tasks) else f"{tasks}: no such methods")


if __name__ == "__main__":
    main()
