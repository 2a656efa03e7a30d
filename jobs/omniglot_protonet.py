"""ProtoNet on Omniglot 5-way 1-shot (Snell et al. 2017), trained on 20 ways; 10 minutes on two cores.

distmeta train jobs/omniglot_protonet.py
distmeta train jobs/omniglot_protonet.py --set tasks.way=20 --set tasks.shots=5
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
from distmeta.methods import protonet


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="omniglot_protonet",
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, train_way=20, queries=2),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=protonet(),
        outer=OuterConfig(optimizer="Adam", lr=1e-3, average=0.995),
        train=TrainConfig(steps=60_000, tasks_per_step=8, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=1000, tasks=400, final_tasks=2000),
        checkpoint=CheckpointConfig(every=1000),
    )


if __name__ == "__main__":
    from distmeta.cli import main

    main(["train", __file__, *sys.argv[1:]])
