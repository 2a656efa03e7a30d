"""The inner problem as what is meta-learned: rates and strengths of L2-SP by parameter group, a learned loss, weights
of examples with wrong labels.

The jobs on Omniglot need the data as `jobs/omniglot.py` does.

    distmeta train jobs/inner_problem.py:hyperparameters
    distmeta train jobs/inner_problem.py:learned_loss
    distmeta train jobs/inner_problem.py:reweight
    distmeta train jobs/inner_problem.py:equal_weights      # the same tasks with wrong labels, all examples alike
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    Conv4Config,
    EngineConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    StoreTasks,
    TrainConfig,
)


def _waves(algorithm: AlgorithmConfig) -> RunConfig:
    """Sine waves from ten points, as `jobs/sinusoid.py`."""
    return RunConfig(
        name=f"inner_problem_{algorithm.method}",
        tasks=SinusoidTasks(shots=10, queries=10),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=25, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=13),
        evaluation=EvaluationConfig(every=5000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=2500),
    )


def _noisy(name: str, algorithm: AlgorithmConfig) -> RunConfig:
    """Omniglot, 5-way 10-shot, four labels of ten wrong."""
    return RunConfig(
        name=name,
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=10, queries=3, eval_queries=3, label_noise=0.4),
        model=Conv4Config(filters=32, downsample="stride"),
        algorithm=algorithm,
        engine=EngineConfig(strategy="compiled"),  # needs a C++ compiler; half a minute the first time
        outer=OuterConfig(optimizer="Adam", lr=1e-3, average=0.995, clip_norm=1.0),
        train=TrainConfig(steps=60_000, tasks_per_step=8, budget_s=600),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=500, tasks=200, final_tasks=1000),
        checkpoint=CheckpointConfig(every=500),
    )


def hyperparameters() -> RunConfig:
    """Rates and strengths of L2-SP for each layer (Franceschi et al. 2018)."""
    groups = ("block1", "block2", "head")
    return _waves(methods.hyperparameters(lr=0.01, steps=5, l2sp=0.1, groups=groups))


def learned_loss() -> RunConfig:
    """ML3 (Bechtle et al. 2021): one step on a learned loss."""
    return _waves(methods.learned_loss(lr=0.1, steps=1))


def reweight() -> RunConfig:
    """Learned weights of examples (Shu et al. 2019); the head adapts, so that steps are cheap."""
    return _noisy("inner_problem_reweight", methods.reweight(lr=0.5, steps=8, groups=("head",)))


def equal_weights() -> RunConfig:
    """The same without weights: ANIL."""
    return _noisy("inner_problem_equal_weights", methods.anil(lr=0.5, steps=8))


if __name__ == "__main__":
    run_job(__file__)
