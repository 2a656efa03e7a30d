"""Whole runs on interactive tasks, by every procedure that they have: resumed, and with workers killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.core.types import Update
from distmeta.program.recorded import AGAIN, CURVATURE, TRIAL
from distmeta.training import TrainResult, train
from distmeta.training.rounds import Rounds

from ..golden.cases import CASES

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])


def run(base: RunConfig, name: str, *changes: str, resume: bool = False) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), resume=resume, quiet=True)


def base_of(name: str, folder: Path) -> RunConfig:
    changes = ["evaluation.final_tasks=0", "checkpoint.every=2", "checkpoint.keep_last=5", "runtime.shard_size=2"]
    return change(CASES[name], [*changes, f"checkpoint.path={folder}"])


@pytest.mark.parametrize(
    "name", ["maml_rl-ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maml_rl", "maml_rl-region"))]
)
def test_a_resumed_run_has_the_same_bits(name: str, tmp_path: Path) -> None:
    base = base_of(name, tmp_path)
    digest = run(base, "whole").digest
    run(base, "resumed")
    for summary in checkpoints.summaries(f"{tmp_path}/resumed"):
        if summary.step > 2:
            (Path(summary.path) / "state.json").unlink()
    assert run(base, "resumed", resume=True).digest == digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rounds"), [("maml_rl-region", ((CURVATURE, 0), (TRIAL, 1))), ("maml_rl-ppo", ((AGAIN, 0), (AGAIN, 1)))]
)
def test_workers_killed_between_the_rounds_of_a_step_change_no_bits(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rounds: tuple[tuple[str, int], ...]
) -> None:
    base = base_of(name, tmp_path)
    digest = run(base, "whole").digest
    killed: list[int] = []
    plain_ask = Rounds.ask

    def ask(self: Rounds, name: str, *arguments: Any) -> Update:
        """Kill a worker, and with it the trajectories that it has recorded."""
        if (name, len(killed)) in rounds:
            killed.append(_kill_a_worker(killed))
        return plain_ask(self, name, *arguments)

    monkeypatch.setattr(Rounds, "ask", ask)
    result = run(base, "bereft", "runtime.executor=ray", "runtime.workers=2")
    assert len(killed) == 2
    assert result.digest == digest


def _kill_a_worker(already: list[int]) -> int:
    """Kill a process of an actor of ours below this one; Ray titles it `ray::` and the name of the class."""
    for child in psutil.Process().children(recursive=True):
        if " ".join(child.cmdline()).startswith("ray::WorkerActor") and child.pid not in already:
            os.kill(child.pid, signal.SIGKILL)
            return child.pid
    raise AssertionError("there is no worker to kill")
