"""The training that all systems do: two workers, eight tasks a step, Adam; the gradient is distmeta's in all of them.

What differs is who hands out the work, who adds the gradients, and what happens to both when something fails.
"""

from __future__ import annotations

from distmeta import methods
from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    EngineConfig,
    EvaluationConfig,
    GlyphTasks,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)

WORKERS, TASKS, SAVE_EVERY, LR = 2, 8, 10, 1e-3
FORMS = ("meta", "supervised")
"""First-order MAML of conv4, and the same network trained on the classes of its tasks without adaptation."""


def config(form: str, steps: int) -> RunConfig:
    """The run, as distmeta takes it."""
    algorithm = methods.fomaml(steps=5, lr=0.1) if form == "meta" else methods.pretrain(steps=1)
    return RunConfig(
        name="faults",
        tasks=GlyphTasks(way=5, shots=1, queries=15, eval_queries=5),
        model=Conv4Config(filters=32),
        algorithm=algorithm,
        engine=EngineConfig(strategy="loop"),
        outer=OuterConfig(optimizer="Adam", lr=LR),
        train=TrainConfig(steps=steps, tasks_per_step=TASKS, log_every=1),
        runtime=RuntimeConfig(workers=WORKERS, shard_size=TASKS // WORKERS),
        evaluation=EvaluationConfig(every=0, final_tasks=0),
        checkpoint=CheckpointConfig(every=SAVE_EVERY),
        tracking=TrackingConfig(kind="none"),
    )
