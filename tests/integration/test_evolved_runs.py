"""A run by PES, whose tasks last several steps, ends with the same bits whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    MlpConfig,
    MlpRuleConfig,
    OuterConfig,
    QuadraticTasks,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.load import change, to_yaml
from distmeta.core.types import Work
from distmeta.methods import evolved_optimizer
from distmeta.training import TrainResult, train
from distmeta.training.procedure import Step
from distmeta.training.steps import Synchronous

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

STEPS = 60
KILLED_AFTER = 7
"""In the middle of the tasks' windows, of which there are five."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return RunConfig(
        name="pes",
        tasks=QuadraticTasks(size=5, rows=8),
        model=MlpConfig(hidden=(4,)),
        algorithm=evolved_optimizer(steps=20, window=4, batch=5, rule=MlpRuleConfig(nominal=1.0)),
        outer=OuterConfig(lr=0.01, schedule="cosine", average=0.9),
        engine=EngineConfig(strategy="vmap"),
        train=TrainConfig(steps=STEPS, tasks_per_step=10),
        runtime=RuntimeConfig(executor="local", shard_size=4),
        evaluation=EvaluationConfig(final_tasks=0),
        checkpoint=CheckpointConfig(path=str(tmp_path_factory.mktemp("runs")), every=1),
        tracking=TrackingConfig(kind="none"),
    )


def run(base: RunConfig, name: str, *changes: str, resume: bool = False) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), resume=resume, quiet=True)


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig) -> str:
    """The digest that every run must end with."""
    return run(base, "undisturbed").digest


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bits(
    ray_cluster: None, base: RunConfig, undisturbed: str, workers: int
) -> None:
    name = f"workers-{workers}"
    assert run(base, name, "runtime.executor=ray", f"runtime.workers={workers}").digest == undisturbed


def test_a_driver_that_was_killed_and_resumed_gives_the_same_bits(
    base: RunConfig, undisturbed: str, tmp_path: Path
) -> None:
    job, config = tmp_path / "killed.yaml", change(base, ["name=killed"])
    job.write_text(to_yaml(config))
    command = [sys.executable, "-m", "distmeta", "train", str(job)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while _step_of(config) < KILLED_AFTER and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert KILLED_AFTER <= _step_of(config) < STEPS
    state = checkpoints.load(f"{config.checkpoint.path}/killed").state
    assert any(name.startswith("carry/0/state.") for name in state)
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(resumed.stdout.splitlines()[-1])
    assert (result["steps"], result["digest"]) == (STEPS, undisturbed)


def test_a_run_resumed_between_windows_gives_the_same_bits(base: RunConfig, undisturbed: str) -> None:
    run(base, "parts", f"train.steps={STEPS}", f"checkpoint.keep_last={STEPS}")
    for summary in checkpoints.summaries(f"{base.checkpoint.path}/parts"):
        if summary.step > KILLED_AFTER:
            (Path(summary.path) / "state.json").unlink()
    assert run(base, "parts", resume=True).digest == undisturbed


def test_workers_that_were_killed_give_the_same_bits(
    ray_cluster: None, base: RunConfig, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def step(self: Synchronous, work: Work) -> Step:
        """Make a step after killing a worker, while the other one may be computing the next shard."""
        if self.server.version in (3, KILLED_AFTER):
            killed.append(_kill_a_worker(killed))
        return plain_step(self, work)

    plain_step = Synchronous.step
    monkeypatch.setattr(Synchronous, "step", step)
    result = run(base, "bereft", "runtime.executor=ray", "runtime.workers=2")
    assert result.counts["worker_died"] == len(killed) == 2
    assert result.digest == undisturbed


def _step_of(config: RunConfig) -> int:
    """The step of the newest checkpoint; -1 if there is none."""
    path = checkpoints.latest(config.checkpoint.path, config.name)
    return -1 if path is None else int(path.rpartition("-")[2])


def _kill_a_worker(already: list[int]) -> int:
    """Kill a process of an actor of ours below this one; Ray titles it `ray::` and the name of the class."""
    for child in psutil.Process().children(recursive=True):
        title = " ".join(child.cmdline())
        if title.startswith("ray::WorkerActor") and child.pid not in already:
            os.kill(child.pid, signal.SIGKILL)
            return child.pid
    raise AssertionError("there is no worker to kill")
