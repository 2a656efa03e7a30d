"""Choose the inner rate by Ray Tune: ASHA (Li et al. 2020, arXiv 1810.05934) ends poor trials early.

    python jobs/tune/asha.py [TRIALS]

Every trial is a whole run in one process (`runtime.executor=local`), which reports each evaluation to Tune by a
callback. The tuner's own cluster has a trial on each core.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

import distmeta
from distmeta import methods
from distmeta.config import (
    CheckpointConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrackingConfig,
    TrainConfig,
)

EVERY, STEPS = 50, 400


class Report(distmeta.Callback):
    """Tells Tune the loss after adaptation."""

    def on_evaluation(self, step: int, scores: Sequence[Any]) -> None:
        tune.report({"step": step, "loss": scores[0].mean[-1]})


def config(lr: float, folder: str) -> RunConfig:
    return RunConfig(
        name="tuned",
        tasks=SinusoidTasks(),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=methods.maml(lr=lr, steps=1, eval_steps=5),
        outer=OuterConfig(lr=1e-3),
        train=TrainConfig(steps=STEPS, tasks_per_step=25),
        runtime=RuntimeConfig(executor="local"),
        evaluation=EvaluationConfig(every=EVERY, tasks=100, final_tasks=0),
        checkpoint=CheckpointConfig(path=folder),
        tracking=TrackingConfig(kind="none", model=False),
    )


def trial(parameters: Mapping[str, float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        distmeta.train(config(parameters["lr"], folder), callbacks=[Report()], quiet=True)


def main(trials: int) -> float:
    """Run the trials; returns the best inner rate."""
    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            trial,
            param_space={"lr": tune.loguniform(1e-4, 1e-1)},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=trials,
                scheduler=ASHAScheduler(time_attr="step", max_t=STEPS, grace_period=2 * EVERY, reduction_factor=2),
            ),
            run_config=tune.RunConfig(storage_path=str(Path(storage).resolve()), verbose=0),
        )
        best = tuner.fit().get_best_result()
    print(f"best inner rate {best.config['lr']:.2e}, loss {best.metrics['loss']:.3f}")
    return float(best.config["lr"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
