"""Where good features come from (Raghu et al. 2020, arXiv 1909.09157, section 6): bodies that were trained in different
ways, all tested without a head (NIL: cosines of features weight the labels of the support set).

Omniglot, 20-way 1-shot, five minutes of training each. Needs the data as `jobs/omniglot.py` does.

    distmeta train jobs/feature_reuse.py:maml
    distmeta train jobs/feature_reuse.py:multitask --set train.budget_s=60
    distmeta train jobs/feature_reuse.py:random_features
    distmeta train jobs/feature_reuse.py:anil --set tasks.store=cifar_fs --set tasks.rotations=false --set tasks.way=5
"""

from typing import Any

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    Conv4Config,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    StoreTasks,
    TrainConfig,
)


def _job(regime: str, algorithm: AlgorithmConfig, *, lr: float = 1e-3, steps: int = 60_000, **tasks: Any) -> RunConfig:
    """A way of training: the same network, tasks and budget for all."""
    return RunConfig(
        name=f"feature_reuse_{regime}",
        tasks=StoreTasks(
            store="omniglot", rotations=True, **{"way": 20, "shots": 1, "queries": 1, "eval_queries": 1, **tasks}
        ),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=algorithm,
        engine=EngineConfig(strategy="compiled"),  # needs a C++ compiler; half a minute the first time
        outer=OuterConfig(optimizer="Adam", lr=lr, average=0.995),
        train=TrainConfig(steps=steps, tasks_per_step=8, budget_s=300),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=500 if steps else 0, tasks=200, final_tasks=1000),
        checkpoint=CheckpointConfig(every=500),
    )


def maml() -> RunConfig:
    """MAML training (Finn et al. 2017), with the rate of `omniglot.py`: most steps a minute."""
    return _job("maml", methods.nil_head(methods.maml(lr=0.4, steps=1)), lr=3e-3)


def anil() -> RunConfig:
    """ANIL training: what the paper calls NIL; the rate is that of `omniglot.py`."""
    return _job("anil", methods.nil(lr=0.5, steps=5), lr=3e-3)


def multiclass() -> RunConfig:
    """One head for all training classes: joint training."""
    return _job("multiclass", methods.nil_head(methods.pretrain(), "multiclass"))


def multitask() -> RunConfig:
    """One head for all tasks, whatever their labels mean: no head for a task."""
    return _job("multitask", methods.multitask())


def multitask_heads() -> RunConfig:
    """A head of its own for each task, fitted with the body to the same examples."""
    return _job("multitask_heads", methods.multitask("task", lr=0.1, steps=5), queries=2)


def nil_training() -> RunConfig:
    """The headless classifier in training as well: cosines without a temperature, as at test."""
    return _job("nil_training", methods.matching())


def random_features() -> RunConfig:
    """The initial body: no training."""
    return _job("random_features", methods.nil_head(methods.anil(), "random_features"), steps=0)


if __name__ == "__main__":
    run_job(__file__)
