"""Parameters predicted from the support set, on Omniglot 5-way 1-shot: class weights from activations of a body that
has been trained before, and all layers scaled and shifted (FiLM).

Needs the data as `jobs/omniglot.py` does. The weight generator takes two runs: the first one trains the body on all
training classes together, the second one starts from it and trains the generator alone.

    distmeta train jobs/parameter_prediction.py:body
    distmeta train jobs/parameter_prediction.py:weight_generator
    distmeta train jobs/parameter_prediction.py:weight_generator --set train.init_from=runs/ANOTHER_RUN
    distmeta train jobs/parameter_prediction.py:film
    distmeta train jobs/parameter_prediction.py:film_waves
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
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    StoreTasks,
    TrainConfig,
)


def _job(name: str, algorithm: AlgorithmConfig, *, init_from: str | None = None, **tasks: Any) -> RunConfig:
    return RunConfig(
        name=f"parameter_prediction_{name}",
        tasks=StoreTasks(store="omniglot", rotations=True, way=5, shots=1, eval_queries=1, **tasks),
        model=Conv4Config(filters=64, downsample="stride"),
        algorithm=algorithm,
        engine=EngineConfig(strategy="compiled"),  # needs a C++ compiler; half a minute the first time
        outer=OuterConfig(optimizer="Adam", lr=1e-3, average=0.995),
        train=TrainConfig(steps=60_000, tasks_per_step=8, budget_s=600, init_from=init_from),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=1000, tasks=400, final_tasks=2000),
        checkpoint=CheckpointConfig(every=1000),
    )


def body() -> RunConfig:
    """The body: joint training on all training classes."""
    return _job("body", methods.pretrain(lr=0.5, steps=20))


def weight_generator() -> RunConfig:
    """Class weights from activations (Qiao et al. 2018), trained on 20 ways; the body stays as it is."""
    return _job(
        "weight_generator",
        methods.weight_generator(),
        init_from="runs/parameter_prediction_body",
        train_way=20,
        queries=2,
    )


def film() -> RunConfig:
    """FiLM of all norms from the support set (Requeima et al. 2019), trained on 20 ways with the body."""
    return _job("film", methods.film(), train_way=20, queries=2)


def film_waves() -> RunConfig:
    """FiLM of all layers of the sine wave network, from ten points."""
    return RunConfig(
        name="parameter_prediction_film_waves",
        tasks=SinusoidTasks(shots=10, queries=10),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=methods.film(),
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=25, log_every=100),
        runtime=RuntimeConfig(workers=2, shard_size=13),
        evaluation=EvaluationConfig(every=5000, tasks=200, final_tasks=600),
        checkpoint=CheckpointConfig(every=2500),
    )


if __name__ == "__main__":
    run_job(__file__)
