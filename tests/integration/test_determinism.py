"""The number of workers never changes the result: the same bits, whoever computed what, whatever died."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.training import TrainResult, train

JOB = Path(__file__).parents[2] / "jobs" / "sinusoid.py:maml"
STEPS = 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The sinusoid job cut short: shards of uneven size, Adam, a schedule and an average."""
    changes = [
        f"train.steps={STEPS}",
        "train.tasks_per_step=10",
        "runtime.shard_size=4",
        "engine.strategy=vmap",
        "outer.schedule=cosine",
        "outer.average=0.9",
        "evaluation.every=0",
        "evaluation.final_tasks=0",
        "tracking.kind=none",
        f"checkpoint.path={tmp_path_factory.mktemp('runs')}",
    ]
    return load_config(str(JOB), changes)


def run(base: RunConfig, name: str, *changes: str, resume: bool = False) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), resume=resume, quiet=True)


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig) -> str:
    """The digest that every run must end with."""
    return run(base, "undisturbed", "runtime.executor=local").digest


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_ray_workers_gives_the_same_bits(base: RunConfig, undisturbed: str, workers: int) -> None:
    result = run(base, f"workers-{workers}", "runtime.executor=ray", f"runtime.workers={workers}")
    assert result.digest == undisturbed


def test_updates_added_near_their_workers_give_the_same_bits(base: RunConfig) -> None:
    changes = ("runtime.shard_size=1", "train.tasks_per_step=20", "train.steps=6")
    digest = run(base, "fine-local", *changes, "runtime.executor=local").digest
    result = run(base, "fine-ray", *changes, "runtime.executor=ray", "runtime.tolerance.aggregate=node")
    assert (result.digest, result.counts["groups"]) == (digest, 12)


def test_a_resumed_run_gives_the_same_bits(base: RunConfig, undisturbed: str) -> None:
    # The first run's last checkpoint is taken away, so that the second one goes on from step 20 of 30.
    changes = ("runtime.executor=local", "checkpoint.every=10", "checkpoint.keep_last=5")
    config = change(base, ["name=resumed", *changes])
    run(base, "resumed", *changes)
    for summary in checkpoints.summaries(f"{config.checkpoint.path}/resumed"):
        if summary.step > 20:
            (Path(summary.path) / "state.json").unlink()
    assert run(base, "resumed", *changes, resume=True).digest == undisturbed


@pytest.mark.parametrize("strategy", ["loop", "compiled", "compiled_vmap", "auto"])
def test_every_strategy_gives_its_own_bits_again(base: RunConfig, strategy: str) -> None:
    if strategy.startswith("compiled") and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    changes = (f"engine.strategy={strategy}", "engine.chunk=2", "checkpoint.every=10", "checkpoint.keep_last=5")
    name = f"{strategy}-local"
    config = change(base, [f"name={name}", *changes])
    digest = run(base, name, *changes, "runtime.executor=local").digest
    spread = ("runtime.executor=ray", "runtime.workers=2", "runtime.threads_per_worker=2")
    # What `auto` measures differs from run to run: only a resumed run goes by the first one's choice.
    if strategy != "auto":
        assert run(base, f"{strategy}-ray", *changes, *spread).digest == digest
    for summary in checkpoints.summaries(f"{config.checkpoint.path}/{name}"):
        if summary.step > 20:
            (Path(summary.path) / "state.json").unlink()
    assert run(base, name, *changes, "runtime.executor=local", resume=True).digest == digest


def test_a_run_killed_half_way_and_resumed_gives_the_same_bits(
    base: RunConfig, undisturbed: str, tmp_path: Path
) -> None:
    config = change(base, ["name=killed", "runtime.executor=local", "checkpoint.every=2"])
    job = tmp_path / "killed.yaml"
    job.write_text(to_yaml(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "distmeta", "train", str(job)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while checkpoints.latest(config.checkpoint.path, "killed") is None and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = subprocess.run(
        [sys.executable, "-m", "distmeta", "train", str(job), "--resume", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["steps"] == STEPS
    assert result["digest"] == undisturbed


def test_workers_killed_in_mid_run_give_the_same_bits(base: RunConfig, undisturbed: str, tmp_path: Path) -> None:
    config = change(base, ["name=bereft", "runtime.executor=ray", "runtime.workers=2", "checkpoint.every=1"])
    job = tmp_path / "bereft.yaml"
    job.write_text(to_yaml(config))
    # A session of its own: should the driver have to be ended, Ray's reaper ends its whole process group with it.
    process = subprocess.Popen(
        [sys.executable, "-m", "distmeta", "train", str(job), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    killed: set[int] = set()
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and len(killed) < 2:
            assert time.monotonic() < deadline, "no worker was seen"
            if checkpoints.latest(config.checkpoint.path, "bereft") is not None:
                killed |= _kill_one_worker(process.pid, killed)
            time.sleep(0.05)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    result = json.loads(output.splitlines()[-1])
    assert killed, "the run ended before a worker could be killed"
    assert result["counts"]["restarts"] >= 1
    assert result["digest"] == undisturbed


def _kill_one_worker(driver: int, already: set[int]) -> set[int]:
    """Kill one actor process below `driver`; Ray titles them `ray::` and the name of their class."""
    for child in psutil.Process(driver).children(recursive=True):
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title and child.pid not in already:
            os.kill(child.pid, signal.SIGKILL)
            return {child.pid}
    return set()
