"""Strategies of transfer learning beside each other: Fashion-MNIST to 600 digits, CIFAR-10 from signed images, and
MiniLM to ten labelled texts of each intent.

    python -m benchmarks.methods.transfer --seeds 5
    python -m benchmarks.methods.transfer --problems signature --strategies merlin fine_tuning --seeds 3
    python -m benchmarks.methods.transfer --set train.steps=200 --seeds 1 --out runs/quick

The problems of texts (`banking77`, `clinc150`) need `distmeta[text]`. Strategies that reuse a network trained on the
source alone start from the same one, which is trained once a seed.
DIR/transfer.json keeps finished rows, and a run that was cut off goes on from its newest checkpoint: the same command
again does what is left. DIR/transfer.md has the tables: accuracy on the test images of the target in percent, mean and
95% interval over seeds; each seed draws its own labelled target images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pictures import accuracy_bars
from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.config import RunConfig
from distmeta.methods import METHODS
from distmeta.training import train
from distmeta.training.seeds import summarise_seeds

PROBLEMS: dict[str, tuple[str, ...]] = {
    "usps": ("transfer.py:",),
    "signature": ("transfer.py:signature_",),
    "banking77": ("transfer_texts.py:",),
    "clinc150": ("transfer_texts.py:", "tasks.store=clinc150", "tasks.examples=1500"),
}
"""Problem -> what the names of its jobs begin with, and changes of them."""
TEXTS = ("frozen", "fine_tuning", "merlin_ft")
STRATEGIES = {
    "usps": ("target_only", "joint", "linear_probe", "fine_tuning", "lp_ft", "l2sp", "surgical", "auto_rgn", "merlin"),
    "signature": ("target_only", "joint", "fine_tuning", "l2sp", "merlin"),
    "banking77": TEXTS,
    "clinc150": TEXTS,
}
TITLES = {
    "frozen": "Frozen network, ridge head",
    "merlin_ft": "MeRLin-ft",
    "from_scratch": "No pre-training",
    "self_supervised": "Pre-training on the same examples",
}
"""Of strategies that are no methods."""
IMAGES = ("usps", "signature")
REUSE = frozenset({"linear_probe", "fine_tuning", "lp_ft", "l2sp", "surgical", "auto_rgn"})
"""Strategies that start from a network trained on the source alone."""
PUBLISHED = {("usps", "l2sp"): "89.74 ± 0.41", ("usps", "merlin"): "93.34 ± 0.41"}
"""Liu et al. 2020, with a ResNet."""
COLUMNS = {"accuracy": "accuracy", "term1/accuracy": "lower half masked"}
"""Metric -> its column."""


def job(problem: str, strategy: str, seed: int, args: argparse.Namespace, *changes: str) -> RunConfig:
    """A job of `jobs/transfer.py` for one seed."""
    own = [f"seed={seed}", "tracking.kind=none", f"checkpoint.path={args.out / 'transfer_runs'}"]
    prefix, *of_problem = PROBLEMS[problem]
    return load_job(f"{prefix}{strategy}", *of_problem, *own, *args.set, *changes)


def run(problem: str, strategy: str, seed: int, args: argparse.Namespace, *own: str, label: str = "") -> dict[str, Any]:
    """The result of one strategy, with changes of its own, of which `label` tells in the run's name."""
    name = f"{problem}_{strategy}{label}_{seed}"
    if strategy not in REUSE or problem not in IMAGES:
        return train(job(problem, strategy, seed, args, f"name={name}", *own), resume="auto").to_json()
    source = job(problem, "fine_tuning", seed, args, f"name={problem}_source_{seed}", "evaluation.final_tasks=0")
    start = train(source, resume="auto").checkpoint
    changes = (f"name={name}", *own, "train.steps=0", f"train.init_from={start}")
    return train(job(problem, strategy, seed, args, *changes), resume="auto").to_json()


def scores_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Metric -> mean in percent, and its interval over seeds; None of a single one."""
    if len(runs) > 1:
        found = summarise_seeds(runs)
        return {score.metric: (100 * score.mean, 100 * score.interval) for score in found if score.metric in COLUMNS}
    return {score["metric"]: (100 * score["after"], None) for score in runs[0]["scores"] if score["metric"] in COLUMNS}


def text_of(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, half = value
    return f"{mean:.2f}" if half is None else f"{mean:.2f} ± {half:.2f}"


def title_of(strategy: str) -> str:
    return TITLES[strategy] if strategy in TITLES else METHODS[strategy].title


def table(problem: str, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table."""
    rows = {strategy: scores_of(list(by_seed.values())) for strategy, by_seed in results.items()}
    columns = {metric: name for metric, name in COLUMNS.items() if any(metric in scores for scores in rows.values())}
    lines = [f"| {problem} | {' | '.join(columns.values())} | published | seeds |", "|---" * (len(columns) + 3) + "|"]
    for strategy, scores in rows.items():
        cells = [text_of(scores.get(metric)) for metric in columns]
        cells += [PUBLISHED.get((problem, strategy), "-"), str(len(results[strategy]))]
        lines.append(f"| {title_of(strategy)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    every = list(dict.fromkeys(name for names in STRATEGIES.values() for name in names))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(IMAGES))
    parser.add_argument("--strategies", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    report = Report("transfer", args.out)
    path = Path(args.out) / "transfer.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in range(args.seeds):
        for problem in args.problems:
            for strategy in (name for name in STRATEGIES[problem] if name in args.strategies):
                found = results.setdefault(problem, {}).setdefault(strategy, {})
                if str(seed) not in found:
                    found[str(seed)] = run(problem, strategy, seed, args)
                    report.write(results=results)
    tables = [table(problem, results[problem]) for problem in args.problems if results.get(problem)]
    text = "\n\n".join("\n".join(lines) for lines in tables)
    (Path(args.out) / "transfer.md").write_text(f"{report.title}\n\n{text}\n", encoding="utf-8")
    print(text)
    for problem in args.problems:
        bars = {title_of(name): scores_of(list(runs.values())) for name, runs in results.get(problem, {}).items()}
        accuracy_bars(Path(args.out) / f"transfer_{problem}.png", bars, COLUMNS, report.title)


if __name__ == "__main__":
    run_main(main)
