"""Learned optimizers: an update rule that trains networks, trained on problems of one kind.

`quadratics` is the first experiment of Andrychowicz et al. 2016. The others classify Fashion-MNIST at 8 x 8 pixels (the
problems of Celo, Moudgil et al. 2025) or 28 x 28, within a horizon of 100 or 200 steps; `distmeta.optim.load` gives
what they trained as a `torch.optim.Optimizer`. They read Fashion-MNIST below $DISTMETA_DATA.

    distmeta train jobs/learned_optimizers.py:quadratics
    distmeta train jobs/learned_optimizers.py:mlp --set train.budget_s=1200
    distmeta train jobs/learned_optimizers.py:mlp --set algorithm.estimator.persistent=false    # truncated ES
    distmeta train jobs/learned_optimizers.py:mlp --set engine.strategy=compiled_vmap           # native code: faster
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    Conv4Config,
    DatasetTasks,
    EngineConfig,
    EvaluationConfig,
    MlpConfig,
    MlpRuleConfig,
    OuterConfig,
    QuadraticTasks,
    RunConfig,
    RuntimeConfig,
    TrainConfig,
)
from distmeta.config.models import ModelConfig
from distmeta.config.tasks import TasksConfig

CORRECTED_ADAM = MlpRuleConfig(nominal=1.0, exponent=1.0, scale=0.003)
"""The MLP corrects Adam, which it begins as."""


def _job(
    name: str,
    tasks: TasksConfig,
    model: ModelConfig,
    algorithm: AlgorithmConfig,
    *,
    lr: float = 1e-3,
    num_tasks: int = 16,
    steps: int = 10_000,
) -> RunConfig:
    return RunConfig(
        name=f"learned_optimizers_{name}",
        tasks=tasks,
        model=model,
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=lr, clip_norm=1.0, schedule="cosine", final_lr_fraction=0.1),
        train=TrainConfig(steps=steps, tasks_per_step=num_tasks, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=num_tasks // 2),
        engine=EngineConfig(strategy="vmap"),
        evaluation=EvaluationConfig(every=2500, tasks=16, final_tasks=32),
        checkpoint=CheckpointConfig(every=1000),
    )


def quadratics() -> RunConfig:
    """An LSTM on random quadratics of ten numbers, 100 steps, windows of 20 (Andrychowicz et al., section 3.1)."""
    return _job("quadratics", QuadraticTasks(), MlpConfig(hidden=()), methods.learned_optimizer(), num_tasks=64)


def mlp() -> RunConfig:
    """An MLP rule by PES, on networks of 32 hidden units."""
    algorithm = methods.evolved_optimizer(steps=100, rule=CORRECTED_ADAM)
    return _job("mlp", DatasetTasks(), MlpConfig(hidden=(32,)), algorithm, lr=3e-3, num_tasks=8, steps=3000)


def logistic() -> RunConfig:
    """The same on logistic regression."""
    algorithm = methods.evolved_optimizer(rule=CORRECTED_ADAM)
    return _job("logistic", DatasetTasks(), MlpConfig(hidden=()), algorithm)


def mlp_backprop() -> RunConfig:
    """The MLP rule by backpropagation through all of 100 steps, instead of by evolution; the last one counts most."""
    algorithm = methods.learned_optimizer(steps=100, window=None, batch=64, rule=CORRECTED_ADAM, final=1.0)
    return _job("mlp_backprop", DatasetTasks(), MlpConfig(hidden=(32,)), algorithm, lr=3e-3, num_tasks=4)


def conv() -> RunConfig:
    """An MLP rule by PES on convolutional networks of eight filters, images of 28 x 28."""
    algorithm = methods.evolved_optimizer(steps=100, window=20, batch=32, rule=CORRECTED_ADAM)
    tasks = DatasetTasks(store="fashion_mnist", examples=1000, queries=100)
    return _job("conv", tasks, Conv4Config(filters=8), algorithm, num_tasks=8)


if __name__ == "__main__":
    run_job(__file__)
