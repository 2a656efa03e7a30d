"""Sine waves: MAML beside the pre-trained baseline, mean squared error after 0 to 10 inner steps on unseen waves.

python benchmarks/methods/sinusoid.py --out sinusoid
python benchmarks/methods/sinusoid.py --set train.steps=2000 --out /tmp/quick
"""

import argparse
import json
from pathlib import Path

from distmeta.config.load import load_config
from distmeta.program.scoring import headline
from distmeta.tracking.plots import adaptation_curve
from distmeta.training import train

JOBS = {"MAML": "sinusoid.py:maml", "pre-trained": "sinusoid.py:pretrain"}


def main() -> None:
    """Train both, print a table, write OUT.json and OUT.png."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("sinusoid"))
    options.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    chosen = options.parse_args()
    results = {
        label: train(load_config(str(Path(__file__).parents[2] / "jobs" / job), chosen.set))
        for label, job in JOBS.items()
    }
    scores = {label: headline(result.scores) for label, result in results.items()}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    content = {label: result.to_json() for label, result in results.items()}
    chosen.out.with_suffix(".json").write_text(json.dumps(content, indent=1))
    adaptation_curve(
        chosen.out.with_suffix(".png"),
        {label: (score.points, score.mean, score.interval) for label, score in scores.items()},
        ylabel="mean squared error",
        title="unseen sine waves, 10 shots, 95% intervals",
    )
    print("| | before | 1 step | 10 steps | outer steps | training seconds |\n|---|---|---|---|---|---|")
    for label, score in scores.items():
        cells = [
            f"{score.mean[score.points.index(k)]:.3f} ± {score.interval[score.points.index(k)]:.3f}" for k in (0, 1, 10)
        ]
        print(f"| {label} | {' | '.join(cells)} | {results[label].steps:,} | {results[label].train_s:.0f} |")


if __name__ == "__main__":
    main()
