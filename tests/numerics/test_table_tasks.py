"""A table of sine waves: MAML learns from its training groups to fit waves of groups that it has never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import distmeta
from distmeta.config import (
    EngineConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TableTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.data.catalog import import_store
from distmeta.data.importers import ImportOptions
from distmeta.methods import maml
from distmeta.training.result import TrainResult

GROUPS, ROWS = 200, 40


def write_waves(path: Path) -> None:
    """Waves of unequal length, in random order, with inputs far from 0."""
    rng = np.random.default_rng(0)
    wave = np.repeat(np.arange(GROUPS), ROWS)[rng.permutation(GROUPS * ROWS)]
    x = rng.uniform(-5, 5, len(wave))
    y = rng.uniform(1, 5, GROUPS)[wave] * np.sin(x - rng.uniform(0, np.pi, GROUPS)[wave])
    lines = [f"wave {index},{1000 + 20 * a!r},{b!r}" for index, a, b in zip(wave, x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(["wave,x,y", *lines]), encoding="utf-8")


def run(name: str, steps: int, **tasks: str) -> TrainResult:
    config = RunConfig(
        name=name,
        tasks=TableTasks(standardise=True, **tasks),
        model=MlpConfig(hidden=(40, 40)),
        algorithm=maml(lr=0.05, steps=1, eval_steps=10),
        outer=OuterConfig(lr=5e-3),
        train=TrainConfig(steps=steps, tasks_per_step=16),
        engine=EngineConfig(strategy="vmap"),
        runtime=RuntimeConfig(executor="local"),
        evaluation=EvaluationConfig(final_tasks=200),
        tracking=TrackingConfig(kind="none"),
    )
    return distmeta.train(config, quiet=True)


@pytest.mark.slow
def test_a_table_of_sine_waves_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_waves(tmp_path / "waves.csv")
    file = {"table": "waves.csv", "group": "wave", "target": "y"}
    short = run("short", 5, **file)
    import_store("regression", tmp_path / "waves.csv", name="w", options=ImportOptions(group="wave", target=("y",)))
    assert run("store", 5, table="w").digest == short.digest, "a file and the store of it make the same tasks"
    (untrained,), (trained,) = short.scores, run("long", 600, **file).scores
    # The waves' mean square is 5; after 600 steps and ten of adaptation, 0.66 was left in 2026.
    assert untrained.mean[-1] > 3.0
    assert trained.mean[-1] < 1.2
    assert trained.mean[-1] < 0.4 * trained.mean[0]
