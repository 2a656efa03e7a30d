"""All methods on Omniglot with the same budget of training seconds, as a Markdown table.

DIR/omniglot_methods.json keeps the results of earlier calls, so methods can be measured one by one.

    python -m benchmarks.methods.omniglot_methods --seconds 600
    python -m benchmarks.methods.omniglot_methods --methods maml protonet --seconds 30 --out runs/quick
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options
from distmeta.program.scoring import Score
from distmeta.training import TrainResult, train

METHODS = ("maml", "fomaml", "anil", "meta_sgd", "reptile", "protonet", "pretrain")
PROTOCOLS = ("transductive", "inductive")
HEADER = "| method | transductive | inductive | steps | tasks/s | training seconds |\n|---|---|---|---|---|---|"


def accuracies(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Protocol -> accuracy after the last inner step and half-width of its 95% interval, in percent."""
    return {
        score.protocol: {"accuracy": 100 * score.mean[-1], "interval": 100 * score.interval[-1]}
        for score in scores
        if score.metric == "accuracy"
    }


def row(method: str, result: TrainResult) -> str:
    by_protocol = accuracies(result.scores)
    cells = [f"{by_protocol[name]['accuracy']:.1f} ± {by_protocol[name]['interval']:.1f}" for name in PROTOCOLS]
    return f"| {method} | {' | '.join(cells)} | {result.steps:,} | {result.tasks_per_s:.0f} | {result.train_s:.0f} |"


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=600.0)
    args = parser.parse_args()
    report = Report("omniglot_methods", args.out)
    path = args.out / "omniglot_methods.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    rows = []
    for method in args.methods:
        result = train(load_job(f"omniglot.py:{method}", f"train.budget_s={args.seconds}", *args.set))
        results[method] = result.to_json()
        report.write(results=results)
        rows.append(row(method, result))
        print(rows[-1], flush=True)
    print("\n".join([HEADER, *rows]))


if __name__ == "__main__":
    main()
