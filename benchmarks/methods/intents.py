"""Few-shot intents: frozen features, LoRA from a plain start, and meta-learned LoRA, on the published class splits.

Five class splits of ProtAugment (Dopierre et al. 2021), 5 ways, 5 queries a class, 600 test episodes, tested at the
best validation score. One training for each split and seed; every row is tested with 1 and with 5 shots on the same
episodes. Rows with inner steps, which take most of the time, are of the first seed alone.
DIR/intents_STORE.json keeps what is finished, so a run that is cut off goes on.

    python -m benchmarks.methods.intents --store banking77
    python -m benchmarks.methods.intents --store clinc150 --splits 01 --episodes 100 --set train.budget_s=60
    python -m benchmarks.methods.intents --set model.frozen_dtype=bfloat16         (on a processor with AMX)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, progress
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.program.scoring import headline
from distmeta.training import train
from distmeta.training.evaluate import evaluate
from distmeta.training.seeds import student_t

SPLITS = ("01", "02", "03", "04", "05")
SHOTS = (1, 5)
INNER = (
    "algorithm.learner={{kind: gradient, head: prototypes, scale: {scale}, "
    "phases: [{{groups: [body, head], lr: {lr}, steps: {steps}}}]}}"
)
RATES = {"frozen": 1.0, "trained": 0.1}
"""Inner rates by start: the best of 0.1, 0.3, 1 and 3 on 120 validation tasks of BANKING77's first split."""
ROWS = {
    "frozen, class means": ("frozen", False),
    "LoRA from a plain start": ("frozen", True),
    "meta-learned LoRA, class means": ("trained", False),
    "meta-learned LoRA, inner steps": ("trained", True),
}
"""Rows: the parameters that they start from, and whether these are adapted by inner steps."""


def changes(args: argparse.Namespace, job: str, split: str, seed: int) -> list[str]:
    return [
        f"tasks.store={args.store}",
        f"tasks.split_set='{split}'",
        f"seed={seed}",
        f"name=intents_{args.store}_{split}_{seed}_{job}",
        "evaluation.final_tasks=0",
        "tracking.kind=none",
        *args.set,
    ]


def run_split(args: argparse.Namespace, split: str, seed: int) -> dict[str, Any]:
    """Train on one class split, and test every row: row -> shots -> accuracy in percent; and how long that took."""
    started = time.monotonic()
    frozen, trained = (
        train(load_job(f"intents.py:{job}", *changes(args, job, split, seed), *more), anew=True)
        for job, more in (("frozen", ["train.steps=0"]), ("lora_protonet", []))
    )
    scores: dict[str, dict[str, float]] = {}
    for row, (source, adapts) in ROWS.items():
        if seed > 0 and (adapts or source == "frozen"):
            continue
        path = trained.tested if source == "trained" else frozen.checkpoint
        inner = [INNER.format(scale=args.scale, lr=RATES[source], steps=args.steps)] if adapts else []
        scores[row] = {}
        for shots in SHOTS:
            overrides = [f"tasks.shots={shots}", f"runtime.threads_per_worker={args.threads}", *inner]
            overrides += ["runtime.shard_size=50", f"engine.strategy={args.strategy}", "engine.chunk=4"]
            # One set of test episodes for all rows and seeds: intervals are over splits and trainings.
            found = headline(evaluate(str(path), tasks=args.episodes, seed=0, overrides=overrides).scores)
            scores[row][str(shots)] = 100 * found.mean[-1]
        progress(f"{args.store} {split} seed {seed}: {row}: {scores[row]}")
    seconds = {"train_s": trained.train_s, "total_s": time.monotonic() - started}
    return {"scores": scores, "steps": trained.steps, "tasks_per_s": trained.tasks_per_s, **seconds}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95% interval (Student's t)."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    spread = float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))
    return float(np.mean(values)), student_t(len(values) - 1) * spread


def by_split(values: Mapping[str, float]) -> list[float]:
    """Means over the seeds of each split, from values by `SPLIT/SEED`."""
    grouped: dict[str, list[float]] = {}
    for key, value in values.items():
        grouped.setdefault(key.split("/")[0], []).append(value)
    return [float(np.mean(each)) for each in grouped.values()]


def table(results: Mapping[str, Any]) -> list[str]:
    """A Markdown table: intervals over splits, each the mean of its seeds; gains over the plain start by split."""
    lines = ["| row | 1 shot | 5 shots | gain over the plain start, 1 shot | 5 shots |", "|---|---|---|---|---|"]
    plain = "LoRA from a plain start"
    for row in ROWS:
        cells = []
        for against in (None, plain):
            for shots in map(str, SHOTS):
                values = {key: run["scores"][row][shots] for key, run in results.items() if row in run["scores"]}
                if against is not None:
                    first = {key.split("/")[0]: run for key, run in results.items() if against in run["scores"]}
                    values = {
                        key: value - first[key.split("/")[0]]["scores"][against][shots] for key, value in values.items()
                    }
                mean, half = interval(by_split(values))
                cells.append(f"{mean:+.2f} ± {half:.2f}" if against else f"{mean:.2f} ± {half:.2f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--store", choices=("banking77", "clinc150"), default="banking77")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--episodes", type=int, default=600, metavar="N")
    parser.add_argument("--steps", type=int, default=1, help="inner steps of the rows that take any")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of squared distances in these rows")
    parser.add_argument("--threads", type=int, default=2, help="lanes of the evaluation")
    parser.add_argument("--strategy", default="vmap", help="strategy of the evaluation")
    args = parser.parse_args()
    report = Report(f"intents_{args.store}", args.out)
    path = Path(args.out) / f"intents_{args.store}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in range(args.seeds):
        for split in args.splits:
            if f"{split}/{seed}" not in results:
                results[f"{split}/{seed}"] = run_split(args, split, seed)
                report.write(results=results, table=table(results))
    print("\n".join(table(results)))
    print(f"{sum(run['total_s'] for run in results.values()) / 60:.0f} minutes")


if __name__ == "__main__":
    run_main(main)
