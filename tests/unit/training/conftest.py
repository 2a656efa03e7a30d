"""A driver of the training loop whose executor and tracker are fakes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.methods import fomaml
from distmeta.program.scoring import ShardScores
from distmeta.training import loop, train
from distmeta.training import run as module

from ...fakes_training import Call, Compute, FakeExecutor, FakeTracker, constant_update

ENGINE = EngineConfig(strategy="loop")
EVERYTHING = 100


def scores(call: Call) -> ShardScores:
    """Losses of 3 before and `2 ** -version` after adaptation, for every task of a shard."""
    version = -1 - call.snapshot.version
    values = np.tile([3.0, 2.0**-version], (len(call.shard.specs), 1))
    return ShardScores({"inductive": (0, 1)}, {"inductive": {"loss": values}})


def handle(call: Call) -> Any:
    """What a worker would compute for the work, made up."""
    return scores(call) if call.work.name == "evaluate" else constant_update(call)


@dataclass
class Driver:
    """Runs `train` with fakes.

    Attributes:
        folder: Folder of the checkpoints.
        executors, trackers: The fakes of every run so far.
        pictures: Arguments of every call of `keep_pictures`.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    executors: list[FakeExecutor] = field(default_factory=list)
    trackers: list[FakeTracker] = field(default_factory=list)
    pictures: list[tuple[Any, ...]] = field(default_factory=list)
    compute: Compute = handle
    workers: int = 1

    def config(self, steps: int = 7, **sections: Any) -> RunConfig:
        defaults: dict[str, Any] = {
            "tasks": SinusoidTasks(),
            "model": MlpConfig(hidden=(4,)),
            "algorithm": fomaml(),
            "outer": OuterConfig(optimizer="SGD", lr=0.1),
            "engine": ENGINE,
            "train": TrainConfig(steps=steps, tasks_per_step=6, log_every=3),
            "runtime": RuntimeConfig(executor="local", shard_size=4),
            "evaluation": EvaluationConfig(every=0, tasks=5, final_tasks=0),
            "checkpoint": CheckpointConfig(path=str(self.folder), every=EVERYTHING, keep_last=EVERYTHING),
            "tracking": TrackingConfig(model=False),
        }
        return RunConfig(name="loop", **{**defaults, **sections})

    def train(self, config: RunConfig | None = None, **options: Any) -> loop.TrainResult:
        executor, tracker = FakeExecutor(self.compute, self.workers), FakeTracker()
        self.executors.append(executor)
        self.trackers.append(tracker)

        def keep(*arguments: Any) -> list[Path]:
            self.pictures.append(arguments)
            return [Path("picture.png")]

        self.monkeypatch.setattr(module, "build_executor", lambda *arguments, **settings: executor)
        self.monkeypatch.setattr(module, "build_tracker", lambda config: tracker)
        self.monkeypatch.setattr(loop, "keep_pictures", keep)
        return train(config or self.config(), quiet=True, **options)

    def saved(self, name: str = "loop") -> dict[int, float | None]:
        """Scores of the run's checkpoints by step."""
        return {summary.step: summary.score for summary in checkpoints.summaries(self.folder / name)}

    @property
    def logged(self) -> dict[int, set[str]]:
        """First parts of the metrics' names, by step."""
        [*_, tracker] = self.trackers
        return {step: {re.split(r"[/.]", name)[0] for name in metrics} for step, metrics in tracker.metrics.items()}

    def evaluated(self) -> list[tuple[str, int, int]]:
        """Split, number of tasks and version of each evaluation of the last run."""
        calls = [call for call in self.executors[-1].calls if call.work.name == "evaluate"]
        groups = itertools.groupby(calls, lambda call: (call.shard.specs[0].split, -1 - call.snapshot.version))
        return [(split, sum(len(call.shard.specs) for call in group), version) for (split, version), group in groups]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path, monkeypatch)
