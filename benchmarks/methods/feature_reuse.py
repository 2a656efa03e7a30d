"""Rapid learning or feature reuse? The study of Raghu et al. 2020 (arXiv 1909.09157) in one table and one analysis.

    python -m benchmarks.methods.feature_reuse --tasks omniglot              (five minutes a way of training and seed)
    python -m benchmarks.methods.feature_reuse --tasks cifar_fs --seconds 600 --seeds 3
    python -m benchmarks.methods.feature_reuse --regimes maml anil --seconds 30 --out runs/quick

Every way of training of `jobs/feature_reuse.py` for the same seconds, scored without a head (NIL); MAML and ANIL also
by inner steps. MAML's network is then analysed: blocks frozen in the inner loop, each layer before and after
adaptation, along training, and between seeds.
DIR/feature_reuse_TASKS.json keeps finished rows, and a run that was cut off goes on from its newest checkpoint; numbers
and pictures of the analysis are in the folder DIR/feature_reuse_TASKS.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.methods.table import mean_of
from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.cli.output import write_result
from distmeta.program.scoring import Score
from distmeta.training import train
from distmeta.training.analysis import analyze
from distmeta.training.evaluate import evaluate

REGIMES = ("maml", "anil", "multiclass", "multitask", "multitask_heads", "nil_training", "random_features")
ADAPTED = ("maml", "anil")
"""Those whose own test, by inner steps, is scored as well."""
SETTINGS = {
    "omniglot": (),
    "cifar_fs": (
        *("tasks.store=cifar_fs", "tasks.rotations=false", "tasks.way=5", "tasks.queries=5", "tasks.eval_queries=15"),
        *("model.downsample=pool", "model.filters=32"),
    ),
}
PROTOCOLS = ("transductive", "inductive")


def changes(args: argparse.Namespace, tasks: str, regime: str, seed: int) -> list[str]:
    own = [f"name=reuse_{tasks}_{regime}_{seed}", f"seed={seed}", "tracking.kind=none", "checkpoint.keep_last=8"]
    # The initial body has no best step, and no budget to spend.
    budget = [] if regime == "random_features" else [f"train.budget_s={args.seconds}"]
    return [*SETTINGS[tasks], *own, *budget, *args.set]


def run(args: argparse.Namespace, tasks: str, regime: str, seed: int) -> dict[str, Any]:
    """Train one way, and score it: `scores` without a head, `adapted` by inner steps."""
    config = load_job(f"feature_reuse.py:{regime}", *changes(args, tasks, regime, seed))
    result = train(config, resume="auto")
    found = {"checkpoint": result.tested or result.checkpoint, **result.to_json()}
    if regime in ADAPTED:
        override = "algorithm.evaluate={}"
        scores = evaluate(found["checkpoint"], tasks=config.evaluation.final_tasks, overrides=[override]).scores
        found["adapted"] = [_row(score) for score in scores]
    return found


def _row(score: Score) -> dict[str, Any]:
    """As in a training run's JSON."""
    return {
        "protocol": score.protocol,
        "metric": score.metric,
        "after": score.mean[-1],
        "interval": score.interval[-1],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table: percent, by protocol."""
    lines = [
        f"| training | {' | '.join(f'NIL, {name}' for name in PROTOCOLS)} | adapted, {PROTOCOLS[0]} | seeds | steps |"
    ]
    lines.append("|---" * 6 + "|")
    for regime, by_seed in results.items():
        runs = list(by_seed.values())
        cells = [mean_of(runs, protocol, "accuracy", 100.0) for protocol in PROTOCOLS]
        adapted = [{"scores": one.get("adapted", ())} for one in runs]
        cells.append(mean_of(adapted, PROTOCOLS[0], "accuracy", 100.0))
        steps = sum(one["steps"] for one in runs) / len(runs)
        lines.append(f"| {regime} | {' | '.join(cells)} | {len(runs)} | {steps:,.0f} |")
    return lines


def analyse(args: argparse.Namespace, runs: Mapping[str, Any]) -> None:
    """MAML's first seed by itself and along training, and its seeds beside each other, as files."""
    paths = [one["checkpoint"] for one in runs.values()]
    parts = {
        "layers": (paths[:1], ("freezing", "adaptation")),
        "training": ([str(Path(paths[0]).parent)], ("training",)),
        "seeds": (paths, ("between",)),
    }
    for name, (checkpoints, what) in parts.items():
        if name != "seeds" or len(checkpoints) > 1:
            overrides = ["algorithm.evaluate={}"]
            result = analyze(checkpoints, what=what, tasks=args.analysis_tasks, overrides=overrides)
            write_result(Path(args.out) / f"feature_reuse_{args.tasks}", f"{name}.json", result)


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--tasks", choices=list(SETTINGS), default="omniglot")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, a way and seed")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--analysis-tasks", type=int, default=100, metavar="N")
    args = parser.parse_args()
    name = f"feature_reuse_{args.tasks}"
    report, path = Report(name, args.out), Path(args.out) / f"{name}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in range(args.seeds):
        for regime in args.regimes:
            found = results.setdefault(regime, {})
            if str(seed) not in found:
                found[str(seed)] = run(args, args.tasks, regime, seed)
                report.write(results=results)
    if "maml" in results:
        analyse(args, results["maml"])
    print("\n".join(table(results)))


if __name__ == "__main__":
    run_main(main)
