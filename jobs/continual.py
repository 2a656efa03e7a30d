"""Representations to learn from streams (Javed & White 2019; Beaulieu et al. 2020): Omniglot, 864 training characters.

Each step of the inner loop sees one drawing; the drawings of a character come one after the other. `distmeta stream`
then learns up to 659 characters of other alphabets, one drawing at a time.

Needs the Omniglot zips below $DISTMETA_DATA/omniglot, or a store made by `distmeta data import omniglot_alphabets DIR`.

    distmeta train jobs/continual.py:oml
    distmeta train jobs/continual.py:anml --set train.budget_s=900
    distmeta train jobs/continual.py:pretrain
    distmeta stream runs/continual_oml runs/continual_anml runs/continual_pretrain --classes 10,100,600 --out stream
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    ConvNetConfig,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    StoreTasks,
    StreamOptions,
    TrainConfig,
)

FILTERS = (64, 64, 128)
"""A quarter of the papers' 256: 1,152 features."""
WAY, SHOTS = 20, 5
"""Streams of the evaluation during training: 100 inner steps."""
EVAL_LR = 1e-3
"""Rate of the head of zeros that evaluation trains: smaller than that of inner steps, which should interfere."""


def _job(name: str, algorithm: AlgorithmConfig, stream: StreamOptions, gate: tuple[int, ...] = ()) -> RunConfig:
    """A method on the network of ANML, with or without its gate."""
    return RunConfig(
        name=f"continual_{name}",
        tasks=StoreTasks(
            store="omniglot_alphabets", way=WAY, shots=SHOTS, train_shots=1, queries=3, eval_queries=2, stream=stream
        ),
        model=ConvNetConfig(filters=FILTERS, gate=gate),
        algorithm=algorithm,
        engine=EngineConfig(strategy="loop", memory="unrolled"),
        outer=OuterConfig(optimizer="Adam", lr=1e-3),
        train=TrainConfig(steps=20_000, tasks_per_step=2, budget_s=3600),
        runtime=RuntimeConfig(workers=2, shard_size=1),
        evaluation=EvaluationConfig(every=500, tasks=20, final_tasks=100),
        checkpoint=CheckpointConfig(every=500),
    )


def oml() -> RunConfig:
    """OML (Javed & White 2019), trained on trajectories like ANML's, which its replications found better."""
    algorithm = methods.oml(lr=0.1, steps=20, trajectory=20 / 84, eval_steps=WAY * SHOTS, eval_lr=EVAL_LR)
    return _job("oml", algorithm, StreamOptions(classes=1, shots=20, remember=64))


def oml_paper() -> RunConfig:
    """OML with the trajectories of its paper: three characters, five drawings each, five more to be scored."""
    algorithm = methods.oml(lr=0.03, steps=15, eval_steps=WAY * SHOTS, eval_lr=EVAL_LR)
    return _job("oml_paper", algorithm, StreamOptions(classes=3, shots=5, queries=5, remember=15))


def anml() -> RunConfig:
    """ANML (Beaulieu et al. 2020): a gate that only the outer loop moves."""
    algorithm = methods.anml(lr=0.1, steps=20, eval_steps=WAY * SHOTS, eval_lr=EVAL_LR)
    return _job("anml", algorithm, StreamOptions(classes=1, shots=20, remember=64), gate=(32, 32, 32))


def pretrain() -> RunConfig:
    """Joint pre-training on the same classes: the baseline of features that no stream has shaped."""
    return _job("pretrain", methods.pretrain(lr=0.1, steps=20), StreamOptions())


if __name__ == "__main__":
    run_job(__file__)
