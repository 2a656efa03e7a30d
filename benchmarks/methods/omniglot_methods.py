"""All methods on Omniglot at one equal budget of training seconds, as a Markdown table.

python benchmarks/methods/omniglot_methods.py --seconds 600 --out methods.json
python benchmarks/methods/omniglot_methods.py --methods maml protonet --seconds 30
"""

import argparse
import json
from pathlib import Path

from distmeta.config.load import load_config
from distmeta.training import TrainResult, train

METHODS = ("maml", "fomaml", "anil", "meta_sgd", "reptile", "protonet", "pretrain")


def row(method: str, result: TrainResult) -> str:
    """One line of the table: accuracy in percent under both protocols."""
    scores = {score.protocol: score for score in result.scores if score.metric == "accuracy"}
    chosen = [scores[protocol] for protocol in PROTOCOLS]
    cells = [f"{100 * score.mean[-1]:.1f} ± {100 * score.interval[-1]:.1f}" for score in chosen]
    return f"| {method} | {' | '.join(cells)} | {result.steps:,} | {result.tasks_per_s:.0f} | {result.train_s:.0f} |"


PROTOCOLS = ("transductive", "inductive")


def main() -> None:
    """Train each method, print its row, keep everything in a JSON file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--out", type=Path, default=Path("omniglot_methods.json"))
    options.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    chosen = options.parse_args()
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    rows = []
    for method in chosen.methods:
        job = Path(__file__).parents[2] / "jobs" / f"omniglot.py:{method}"
        result = train(load_config(str(job), [f"train.budget_s={chosen.seconds}", *chosen.set]))
        found[method] = result.to_json()
        chosen.out.write_text(json.dumps(found, indent=1))
        rows.append(row(method, result))
        print(rows[-1], flush=True)
    print("| method | transductive | inductive | steps | tasks/s | training seconds |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
