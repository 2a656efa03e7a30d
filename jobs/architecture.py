"""Architecture as meta-knowledge: MAML over cells that mix operations (DARTS, Liu et al. 2019), CIFAR-FS 5-way 1-shot.

The mixing weights are meta-parameters that no inner step moves. After training they choose an operation for each edge
of the cell, and the network of the chosen ones is trained anew:

    distmeta train jobs/architecture.py:darts
    distmeta checkpoint architecture runs/architecture_darts
    distmeta train jobs/architecture.py:chosen --set model.chosen=[conv3x3,skip,conv3x3]
    distmeta train jobs/architecture.py:darts --set tasks.store=omniglot --set name=omniglot_darts
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    CheckpointConfig,
    EvaluationConfig,
    MixedConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    StoreTasks,
    TrainConfig,
)


def _job(name: str, model: MixedConfig) -> RunConfig:
    return RunConfig(
        name=name,
        tasks=StoreTasks(store="cifar_fs", way=5, shots=1, queries=5, eval_queries=15),
        model=model,
        algorithm=methods.darts(lr=0.1, steps=3),
        outer=OuterConfig(optimizer="Adam", lr=3e-3),
        train=TrainConfig(steps=60_000, tasks_per_step=4, budget_s=1800),
        runtime=RuntimeConfig(workers=2, shard_size=2),
        evaluation=EvaluationConfig(every=500, tasks=100, final_tasks=600),
        checkpoint=CheckpointConfig(every=500),
    )


def darts() -> RunConfig:
    """All operations, mixed."""
    return _job("architecture_darts", MixedConfig(filters=16))


def chosen() -> RunConfig:
    """One operation on each edge; name those that a run of `darts` has chosen."""
    return _job("architecture_chosen", MixedConfig(filters=16, chosen=("conv3x3", "conv3x3", "conv3x3")))


if __name__ == "__main__":
    run_job(__file__)
