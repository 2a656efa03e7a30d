"""The demo: MAML learns to read characters it has never seen from one example each, in about a minute of training.

The characters are drawn by the program itself (`glyphs`), so nothing is downloaded. Two Ray workers on this machine.

    distmeta train jobs/demo.py
    make demo
    python jobs/demo.py
"""

from distmeta.cli import run_job
from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    EvaluationConfig,
    GlyphTasks,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrainConfig,
)
from distmeta.methods import maml


def config() -> RunConfig:
    """The run."""
    return RunConfig(
        name="demo",
        tasks=GlyphTasks(way=5, shots=1, queries=3, eval_queries=5),
        model=Conv4Config(filters=32),
        algorithm=maml(lr=0.4, steps=1, eval_steps=3),
        outer=OuterConfig(optimizer="Adam", lr=5e-3, average=0.99),
        train=TrainConfig(steps=450, tasks_per_step=32),
        runtime=RuntimeConfig(executor="ray", workers=2, shard_size=16),
        evaluation=EvaluationConfig(every=150, tasks=160, final_tasks=608),
        checkpoint=CheckpointConfig(every=150),
    )


if __name__ == "__main__":
    run_job(__file__)
