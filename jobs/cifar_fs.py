"""CIFAR-FS, 5-way 1-shot (Bertinetto et al. 2019): conv4 with 32 filters and max pooling, as for miniImageNet.

distmeta train jobs/cifar_fs.py:maml
distmeta train jobs/cifar_fs.py:maml --set tasks.store=fc100 --set name=fc100_maml
python jobs/cifar_fs.py maml
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
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


def maml() -> RunConfig:
    """MAML, exact second order (Finn et al. 2017)."""
    return RunConfig(
        name="cifar_fs_maml",
        tasks=StoreTasks(store="cifar_fs", way=5, shots=1, queries=15),
        model=Conv4Config(filters=32, downsample="pool"),
        algorithm=methods.maml(lr=0.01, steps=5, eval_steps=10),
        engine=EngineConfig(strategy="compiled"),  # needs a C++ compiler; half a minute the first time
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=60_000, tasks_per_step=4),
        runtime=RuntimeConfig(workers=2, shard_size=2),
        evaluation=EvaluationConfig(every=1000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=1000),
    )


if __name__ == "__main__":
    run_job(__file__)
