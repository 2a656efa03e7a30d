"""Reptile on Omniglot 5-way 1-shot (Nichol et al. 2018): ten training shots, inner Adam; 10 minutes on two cores.

distmeta train jobs/omniglot_reptile.py
distmeta train jobs/omniglot_reptile.py --set tasks.way=20 --set tasks.shots=5
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
from distmeta.methods import reptile


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="omniglot_reptile",
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, train_shots=10, queries=1),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=reptile(lr=1e-3, steps=5, batch=10, eval_steps=50),
        outer=OuterConfig(optimizer="SGD", lr=1.0, average=0.99),
        train=TrainConfig(steps=100_000, tasks_per_step=6, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=3),
        evaluation=EvaluationConfig(every=2000, tasks=100, final_tasks=300),
        checkpoint=CheckpointConfig(every=2000),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
