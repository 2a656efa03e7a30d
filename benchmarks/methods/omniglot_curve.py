"""Test accuracy of MAML on Omniglot (5-way 1-shot) against seconds of training, beside learn2learn's recipe.

The reference points were measured on a two-core machine with learn2learn's algorithm code and its published recipe:
conv4, 32 tasks a step, one inner step of 0.5, outer Adam 3e-3, one query per class, 400 test tasks, query statistics in
batch norm. The curve here is scored in the same way (one query per class, transductive), and inductively besides.

    python benchmarks/methods/omniglot_curve.py --seconds 1260 --out curve
    python benchmarks/methods/omniglot_curve.py --seconds 60 --out /tmp/quick
"""

import argparse
import json
from pathlib import Path
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.load import load_config
from distmeta.tracking.plots import training_curves
from distmeta.training import train

REFERENCE = {103: 89.8, 282: 92.9, 603: 94.7, 1069: 95.4, 1215: 95.6}


def config(seconds: float, every: int, tasks: int) -> RunConfig:
    """The MAML job, scored on test tasks while it trains."""
    job = Path(__file__).parents[2] / "jobs" / "omniglot.py:maml"
    changes = {
        "name": "omniglot_curve",
        "train.budget_s": seconds,
        "evaluation.split": "test",
        "evaluation.every": every,
        "evaluation.tasks": tasks,
    }
    return load_config(str(job), [f"{field}={value}" for field, value in changes.items()])


def main() -> None:
    """Train, collect the curve, write OUT.json and OUT.png."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1260.0)
    options.add_argument("--every", type=int, default=600, help="outer steps between two scores")
    options.add_argument("--tasks", type=int, default=400)
    options.add_argument("--out", type=Path, default=Path("omniglot_curve"))
    chosen = options.parse_args()
    result = train(config(chosen.seconds, chosen.every, chosen.tasks))
    points: list[dict[str, Any]] = [
        {
            "train_s": evaluation.train_s,
            "step": evaluation.step,
            **{
                score.protocol: {"accuracy": 100 * score.mean[-1], "interval": 100 * score.interval[-1]}
                for score in evaluation.scores
                if score.metric == "accuracy"
            },
        }
        for evaluation in result.evaluations
    ]
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"points": points, "reference": REFERENCE, "final": result.to_json()}
    chosen.out.with_suffix(".json").write_text(json.dumps(content, indent=1))
    seconds = [point["train_s"] for point in points]
    training_curves(
        chosen.out.with_suffix(".png"),
        {
            f"distmeta, {name}": (seconds, [point[name]["accuracy"] for point in points])
            for name in ("transductive", "inductive")
        },
        xlabel="seconds of training (2 cores)",
        ylabel="test accuracy, %",
        reference=("learn2learn's recipe, transductive", list(REFERENCE), list(REFERENCE.values())),
    )
    for second, accuracy in REFERENCE.items():
        before = [point for point in points if point["train_s"] <= second]
        if before:
            ours = before[-1]["transductive"]
            print(
                f"{second:5d} s: {ours['accuracy']:.1f} +- {ours['interval']:.1f} % "
                f"(scored at {before[-1]['train_s']:.0f} s) against {accuracy:.1f} %"
            )


if __name__ == "__main__":
    main()
