"""Sine waves: MAML beside the pre-trained baseline, mean squared error after 0 to 10 inner steps on unseen waves.

python -m benchmarks.methods.sinusoid
python -m benchmarks.methods.sinusoid --set train.steps=2000 --out runs/quick
"""

from __future__ import annotations

from benchmarks.report import Report
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.program.scoring import Score, headline
from distmeta.tracking.plots import adaptation_curve
from distmeta.training import TrainResult, train

JOBS = {"MAML": "sinusoid.py:maml", "pre-trained": "sinusoid.py:pretrain"}
SHOWN_STEPS = (0, 1, 10)
HEADER = "| | before | 1 step | 10 steps | outer steps | training seconds |\n|---|---|---|---|---|---|"


def row(label: str, result: TrainResult, score: Score) -> str:
    points = [score.points.index(steps) for steps in SHOWN_STEPS]
    cells = [f"{score.mean[point]:.3f} ± {score.interval[point]:.3f}" for point in points]
    return f"| {label} | {' | '.join(cells)} | {result.steps:,} | {result.train_s:.0f} |"


def main() -> None:
    args = options(__doc__, overrides=True, default_out=LONG_OUT).parse_args()
    report = Report("sinusoid", args.out)
    results = {label: train(load_job(job, *args.set)) for label, job in JOBS.items()}
    scores = {label: headline(result.scores) for label, result in results.items()}
    report.write(results={label: result.to_json() for label, result in results.items()})
    adaptation_curve(
        args.out / "sinusoid.png",
        {label: (score.points, score.mean, score.interval) for label, score in scores.items()},
        ylabel="mean squared error",
        title="unseen sine waves, 10 shots, 95% intervals",
    )
    print("\n".join([HEADER, *(row(label, results[label], score) for label, score in scores.items())]))


if __name__ == "__main__":
    run_main(main)
