"""Joint pre-training on all Omniglot training classes, then a fresh head for each task: the transfer baseline.

distmeta train jobs/omniglot_pretrain.py
distmeta train jobs/omniglot_pretrain.py --set tasks.way=20 --set tasks.shots=5
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
from distmeta.methods import pretrain


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="omniglot_pretrain",
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, joint=True),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=pretrain(lr=0.5, steps=20),
        outer=OuterConfig(optimizer="Adam", lr=1e-3, average=0.995),
        train=TrainConfig(steps=60_000, tasks_per_step=4, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=2),
        evaluation=EvaluationConfig(every=1000, tasks=400, final_tasks=2000),
        checkpoint=CheckpointConfig(every=1000),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
