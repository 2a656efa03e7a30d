"""The baseline of `sinusoid_maml`: one network trained on all waves together, then fine-tuned on each.

The average over waves is what such a network learns, so that fine-tuning starts far from every single one
(Finn et al. 2017, section 5.1, "pre-trained").

    distmeta train jobs/sinusoid_pretrain.py
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
from distmeta.methods import pretrain


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="sinusoid_pretrain",
        tasks=SinusoidTasks(shots=10, queries=10, joint=True),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=pretrain(lr=0.01, steps=10, groups=("all",), fresh=False),
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=25, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=13),
        evaluation=EvaluationConfig(every=5000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=2500),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
