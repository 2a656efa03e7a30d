"""MAML on CIFAR-FS 5-way 1-shot (Bertinetto et al. 2019): conv4 with 32 filters and max pooling, as for miniImageNet.

distmeta train jobs/cifar_fs_maml.py
distmeta train jobs/cifar_fs_maml.py --set tasks.store=fc100 --set name=fc100_maml
"""

import sys

from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    StoreTasks,
    TrainConfig,
)
from distmeta.methods import maml


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="cifar_fs_maml",
        tasks=StoreTasks(store="cifar_fs", way=5, shots=1, queries=15),
        model=Conv4Config(filters=32, downsample="pool"),
        algorithm=maml(lr=0.01, steps=5, eval_steps=10),
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=60_000, tasks_per_step=4),
        runtime=RuntimeConfig(workers=2, shard_size=2),
        evaluation=EvaluationConfig(every=1000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=1000),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
