"""A worker that Ray's memory monitor kills: the run goes on, and its bits are those of an undisturbed one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from distmeta.config import EngineConfig, MlpConfig, RunConfig, SinusoidTasks
from distmeta.config.load import change
from distmeta.core.seeding import Uint64
from distmeta.core.types import Batch
from distmeta.methods import maml
from distmeta.tasks.sinusoid import SinusoidSource
from distmeta.training import train

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

ALLOWED, MOST = 3 << 30, 8 << 30
"""Bytes more than now before Ray kills, and those that the greedy worker stops at."""
BLOCK = 64 << 20


class Greedy(SinusoidSource):
    """Sine waves. The first Ray worker that builds tasks of training, of all workers ever, takes memory until it dies.

    Args:
        seed: The run's seed.
        dtype: Type of the examples.
        flag: A file that says that one has done so.
    """

    def __init__(self, seed: int, dtype: torch.dtype, flag: str) -> None:
        super().__init__(SinusoidTasks(shots=4, queries=4, eval_queries=4), seed, dtype)
        self._flag = flag

    def batches(self, split: str, seeds: Uint64, roles: tuple[str, ...]) -> dict[str, Batch]:
        parent = psutil.Process().parent()
        if parent is not None and parent.name() == "raylet" and self._is_first():
            taken = []
            while len(taken) * BLOCK < MOST:
                taken.append(np.ones(BLOCK, dtype=np.uint8))
            time.sleep(60)
        return super().batches(split, seeds, roles)  # type: ignore[return-value]

    def _is_first(self) -> bool:
        try:
            os.close(os.open(self._flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def test_a_worker_killed_for_its_memory_changes_no_bits(
    no_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
    memory = psutil.virtual_memory()
    if memory.available < MOST + (4 << 30):
        pytest.skip(f"{memory.available >> 30} GiB are free, but {(MOST >> 30) + 4} are needed")
    flag = tmp_path / "taken"
    tasks = {"source": "python", "target": f"{__file__}:Greedy", "options": {"flag": str(flag)}, "max_examples": 8}
    base = RunConfig.model_validate(
        {
            "name": "alone",
            "tasks": tasks,
            "model": MlpConfig(hidden=(8,)),
            "algorithm": maml(lr=0.01),
            "engine": EngineConfig(strategy="vmap"),
            "train": {"steps": 6, "tasks_per_step": 8},
            "runtime": {"executor": "local", "shard_size": 2},
            "evaluation": {"every": 0, "final_tasks": 0},
            "checkpoint": {"path": str(tmp_path / "runs")},
            "tracking": {"kind": "none"},
        }
    )
    digest = train(base, quiet=True).digest
    assert not flag.exists()
    limit = (memory.total - memory.available + ALLOWED) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", str(limit))
    on_ray = [
        "name=short-of-memory",
        "runtime.executor=ray",
        "runtime.workers=2",
        "runtime.tolerance.heartbeat_timeout_s=120",
        "runtime.tolerance.speculate=false",  # nobody does the greedy worker's shard meanwhile
    ]
    result = train(change(base, on_ray), quiet=True)
    assert flag.exists()
    assert result.counts["out_of_memory"] >= 1
    assert result.digest == digest
