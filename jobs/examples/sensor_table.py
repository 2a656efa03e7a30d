"""A table of one's own as few-shot regression: every sensor is a task, and 8 readings calibrate an unseen one.

    distmeta train jobs/examples/sensor_table.py

`sensors.csv` has a row for each reading: the sensor, its voltage and humidity, and the true temperature. No class is
written: the columns are named, and the table is imported at first use.
"""

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import (
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TableTasks,
    TrainConfig,
)


def config() -> RunConfig:
    return RunConfig(
        name="sensor_table",
        tasks=TableTasks(
            table="jobs/examples/sensors.csv",
            group="sensor",
            inputs=("voltage", "humidity"),
            target="temperature",
            standardise=True,
            shots=8,
            queries=12,
            eval_queries=12,
        ),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=methods.maml(lr=0.02, steps=3, eval_steps=10),
        outer=OuterConfig(optimizer="Adam", lr=3e-3, clip_norm=10.0),
        train=TrainConfig(steps=1500, tasks_per_step=8),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=500, tasks=50, final_tasks=200),
    )


if __name__ == "__main__":
    run_job(__file__)
