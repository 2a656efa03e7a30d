"""Pre-training or not: error on the target against the number of its labelled examples.

    python -m benchmarks.methods.pretraining --seeds 3
    python -m benchmarks.methods.pretraining --examples 20 100 600 --strategies from_scratch fine_tuning

From Fashion-MNIST to USPS, as `jobs/transfer.py`: fine-tuning from a random network, from one that was pre-trained on
the same examples without their labels (by turning them), and from one that was trained on the source, which each seed
trains once for all numbers of examples. DIR/pretraining.json keeps finished points: the same command again does what is
left. DIR/pretraining.png has a curve for each strategy, after ULMFiT's figure 3 (Howard & Ruder 2018, arXiv
1801.06146).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.methods.transfer import STRATEGIES, run, scores_of, text_of, title_of
from benchmarks.pictures import error_curves
from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, options, run_main

START = ("from_scratch", "self_supervised", "fine_tuning")
"""What fine-tuning starts from."""
EXAMPLES = (20, 50, 100, 200, 600)
Points = dict[str, dict[str, dict[str, Any]]]
"""Strategy -> number of examples -> seed -> the run's result."""


def errors_of(results: Points) -> dict[str, list[tuple[float, float, float | None]]]:
    """Strategy -> points of (examples, error in percent, its half-width over seeds; None of one seed)."""
    curves = {}
    for strategy, by_examples in results.items():
        scores = {int(count): scores_of(list(runs.values()))["accuracy"] for count, runs in by_examples.items()}
        curves[strategy] = [(float(count), 100 - mean, half) for count, (mean, half) in sorted(scores.items())]
    return curves


def table(curves: Mapping[str, list[tuple[float, float, float | None]]]) -> list[str]:
    """A Markdown table of errors in percent."""
    counts = sorted({count for points in curves.values() for count, *_ in points})
    lines = [
        f"| labelled examples | {' | '.join(f'{count:g}' for count in counts)} |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for strategy, points in curves.items():
        found = {count: text_of((error, half)) for count, error, half in points}
        lines.append(f"| {title_of(strategy)} | {' | '.join(found.get(count, '-') for count in counts)} |")
    return lines


def changes_of(examples: int) -> list[str]:
    """A mini-batch of a training task cannot have more than the labelled images."""
    support = min(150, examples // 2)
    return [f"tasks.examples={examples}", f"tasks.support={support}", f"tasks.queries={min(32, examples - support)}"]


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--examples", type=int, nargs="+", default=list(EXAMPLES), metavar="N")
    choices = list(dict.fromkeys((*START, *STRATEGIES["usps"])))
    parser.add_argument("--strategies", nargs="+", choices=choices, default=list(START))
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    report = Report("pretraining", args.out)
    path = Path(args.out) / "pretraining.json"
    results: Points = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in range(args.seeds):
        for strategy in args.strategies:
            for examples in args.examples:
                found = results.setdefault(strategy, {}).setdefault(str(examples), {})
                if str(seed) not in found:
                    found[str(seed)] = run("usps", strategy, seed, args, *changes_of(examples), label=f"_{examples}")
                    report.write(results=results)
    curves = errors_of(results)
    print("\n".join(table(curves)))
    titled = {title_of(strategy): points for strategy, points in curves.items()}
    error_curves(Path(args.out) / "pretraining.png", titled, report.title)


if __name__ == "__main__":
    run_main(main)
