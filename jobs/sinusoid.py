"""Regression of sine waves, the set-up of the MAML paper (Finn et al. 2017, section 5.1): 10 shots.

Trains 25 tasks a step for 20,000 steps (the paper: 70,000) and scores 1 to 10 inner steps on unseen waves.

    distmeta train jobs/sinusoid.py:maml
    distmeta train jobs/sinusoid.py:maml --set runtime.executor=local --set train.steps=2000
    distmeta train jobs/sinusoid.py:pretrain
    python jobs/sinusoid.py maml --set engine.strategy=compiled_vmap     # native code: faster for all 20,000 steps
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrainConfig,
)


def _job(algorithm: AlgorithmConfig, hidden: tuple[int, ...] = (40, 40), context_size: int = 0) -> RunConfig:
    return RunConfig(
        name=f"sinusoid_{algorithm.method}",
        tasks=SinusoidTasks(shots=10, queries=10),
        model=MlpConfig(hidden=hidden, context_size=context_size),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=25, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=13),
        evaluation=EvaluationConfig(every=5000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=2500),
    )


def maml() -> RunConfig:
    """MAML with one inner step of 0.01."""
    return _job(methods.maml(lr=0.01, steps=1, eval_steps=10))


def cavia() -> RunConfig:
    """CAVIA (Zintgraf et al. 2019, section 5.1): five context parameters beside the input, one inner step of 1."""
    return _job(methods.cavia(lr=1.0, steps=1, eval_steps=10), context_size=5)


def r2d2() -> RunConfig:
    """A ridge head in closed form (Bertinetto et al. 2019)."""
    return _job(methods.r2d2(regularisation=0.1))


def pretrain() -> RunConfig:
    """The paper's "pre-trained" baseline: one network trained on all waves together, then fine-tuned on each.

    Such a network learns the average over waves, so that fine-tuning starts far from every single one.
    """
    return _job(methods.pretrain(lr=0.01, steps=10, groups=("all",), fresh=False))


def neural_process() -> RunConfig:
    """Conditional neural process (Garnelo et al. 2018) on the numbers as they are: the network has no hidden layers."""
    return _job(methods.neural_process(), hidden=())


def lstm() -> RunConfig:
    """An LSTM that reads the points in order; every position of the sequence is scored."""
    return _job(methods.lstm())


def in_context() -> RunConfig:
    """A transformer over points and queries (Garg et al. 2022)."""
    return _job(methods.in_context())


if __name__ == "__main__":
    run_job(__file__)
