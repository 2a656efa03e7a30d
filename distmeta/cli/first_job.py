"""A first job: MAML learns to tell five characters apart from one drawing of each, in half a minute on one core.

The characters are drawn by distmeta itself, so that nothing is downloaded.

    distmeta train first_job.py                               train and evaluate; checkpoints go to runs/first_job
    distmeta train first_job.py --set train.steps=500         change a field of the configuration
    distmeta train first_job.py --set runtime.executor=ray    compute the same numbers with two Ray workers
    distmeta train first_job.py --dry-run                     print the whole configuration
    distmeta evaluate runs/first_job                          score the checkpoint on other tasks
    distmeta ui                                               look at the runs in the browser
    python first_job.py                                       the same as `distmeta train first_job.py`
"""

from distmeta.cli import run_job
from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    EngineConfig,
    EvaluationConfig,
    GlyphTasks,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrainConfig,
)
from distmeta.methods import maml


def config() -> RunConfig:
    """The run. A file may hold several functions like this one: `distmeta train FILE.py:NAME` calls one of them."""
    return RunConfig(
        name="first_job",  # the run's name in MLflow, and the folder of its checkpoints
        # A task: 5 characters, with 1 support drawing and 3 query drawings of each (5 query drawings at evaluation).
        # For your own images: `distmeta data import images DIR --name NAME`, then `StoreTasks(store="NAME", ...)`.
        tasks=GlyphTasks(way=5, shots=1, queries=3, eval_queries=5),
        # The network that is adapted. Its input and output sizes come from the tasks.
        model=Conv4Config(filters=16),
        # The method: one inner step in training, three at evaluation. Others are in `distmeta.methods`.
        algorithm=maml(lr=0.4, steps=1, eval_steps=3),
        # The outer loop: Adam, and a moving average of the meta-parameters, which is evaluated.
        outer=OuterConfig(optimizer="Adam", lr=5e-3, average=0.95),
        train=TrainConfig(steps=100, tasks_per_step=16),
        # Compute the tasks of a shard at once. The default, "auto", times several strategies first.
        engine=EngineConfig(strategy="vmap"),
        # "local" is this process, "ray" are workers on this machine or a cluster. Here a step has 16 / 8 = 2 shards.
        runtime=RuntimeConfig(executor="local", workers=2, shard_size=8),
        evaluation=EvaluationConfig(every=50, tasks=100, final_tasks=200),
        checkpoint=CheckpointConfig(every=50),
    )


if __name__ == "__main__":
    run_job(__file__)
