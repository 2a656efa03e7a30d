"""Test accuracy of MAML on Omniglot (5-way 1-shot) against seconds of training, beside learn2learn's recipe.

The reference points were measured on a two-core machine with learn2learn's algorithm code and its published recipe:
conv4, 32 tasks a step, one inner step of 0.5, outer Adam 3e-3, one query per class, 400 test tasks, query statistics in
batch norm. The curve is scored in the same way (one query per class, transductive), and inductively as well.

    python -m benchmarks.methods.omniglot_curve --seconds 1260
    python -m benchmarks.methods.omniglot_curve --seconds 60 --out runs/quick
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.program.scoring import Score
from distmeta.tracking.plots import training_curves
from distmeta.training import train

REFERENCE = {103: 89.8, 282: 92.9, 603: 94.7, 1069: 95.4, 1215: 95.6}
"""Seconds of training -> accuracy in percent."""
PROTOCOLS = ("transductive", "inductive")


def accuracies(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Protocol -> accuracy after the last inner step and half-width of its 95% interval, in percent."""
    return {
        score.protocol: {"accuracy": 100 * score.mean[-1], "interval": 100 * score.interval[-1]}
        for score in scores
        if score.metric == "accuracy"
    }


def main() -> None:
    parser = options(__doc__, default_out=LONG_OUT)
    parser.add_argument("--seconds", type=float, default=1260.0)
    parser.add_argument("--every", type=int, default=600, help="outer steps between two evaluations")
    parser.add_argument("--tasks", type=int, default=400)
    args = parser.parse_args()
    report = Report("omniglot_curve", args.out)
    config = load_job(
        "omniglot.py:maml",
        "name=omniglot_curve",
        f"train.budget_s={args.seconds}",
        "evaluation.split=test",
        f"evaluation.every={args.every}",
        f"evaluation.tasks={args.tasks}",
    )
    result = train(config)
    points: list[dict[str, Any]] = [
        {"train_s": evaluation.train_s, "step": evaluation.step, **accuracies(evaluation.scores)}
        for evaluation in result.evaluations
    ]
    report.write(points=points, reference=REFERENCE, final=result.to_json())
    seconds = [point["train_s"] for point in points]
    training_curves(
        args.out / "omniglot_curve.png",
        {f"distmeta, {name}": (seconds, [point[name]["accuracy"] for point in points]) for name in PROTOCOLS},
        xlabel="seconds of training (2 cores)",
        ylabel="test accuracy, %",
        reference=("learn2learn's recipe, transductive", list(REFERENCE), list(REFERENCE.values())),
    )
    for reference_s, accuracy in REFERENCE.items():
        before = [point for point in points if point["train_s"] <= reference_s]
        if before:
            score = before[-1]["transductive"]
            print(
                f"{reference_s:5d} s: {score['accuracy']:.1f} +- {score['interval']:.1f} % "
                f"(scored at {before[-1]['train_s']:.0f} s), reference {accuracy:.1f} %"
            )


if __name__ == "__main__":
    run_main(main)
