"""MAML, exact second order, on Omniglot 5-way 1-shot (Finn et al. 2017): 10 minutes on two cores.

distmeta train jobs/omniglot_maml.py
distmeta train jobs/omniglot_maml.py --set tasks.way=20 --set tasks.shots=5
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
        name="omniglot_maml",
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, queries=1),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=maml(lr=0.4, steps=1, eval_steps=3),
        outer=OuterConfig(optimizer="Adam", lr=3e-3, average=0.995),
        train=TrainConfig(steps=60_000, tasks_per_step=32, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=16),
        evaluation=EvaluationConfig(every=500, tasks=400, final_tasks=2000),
        checkpoint=CheckpointConfig(every=500),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
