"""MAML on sine waves, the set-up of the MAML paper (Finn et al. 2017, section 5.1): 10 shots, one inner step of 0.01.

Trains 25 tasks a step for 20,000 steps (the paper: 70,000) and scores 1 to 10 inner steps on unseen waves.

    distmeta train jobs/sinusoid_maml.py
    distmeta train jobs/sinusoid_maml.py --set runtime.executor=local --set train.steps=2000
"""

import sys

from distmeta.config import (
    CheckpointConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrainConfig,
)
from distmeta.methods import maml


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="sinusoid_maml",
        tasks=SinusoidTasks(shots=10, queries=10),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=maml(lr=0.01, steps=1, eval_steps=10),
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=25, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=13),
        evaluation=EvaluationConfig(every=5000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=2500),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
