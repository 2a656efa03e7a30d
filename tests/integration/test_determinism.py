"""The number of workers never changes the result: the same bits on any workers, after any failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.core.types import Work
from distmeta.data.store import write_store
from distmeta.training import TrainResult, train
from distmeta.training.procedure import Step
from distmeta.training.steps import Synchronous

from ..golden.cases import CASES, case_in

pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "sinusoid.py"
STEPS = 12
KEPT = 8
"""The step from which resumed runs continue."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The sinusoid job cut short: shards of uneven size, Adam, a schedule and an average.

    Updates are large enough for shared memory.
    """
    changes = [
        "model.hidden=[160, 160]",
        f"train.steps={STEPS}",
        "train.tasks_per_step=10",
        "runtime.shard_size=4",
        "engine.strategy=vmap",
        "outer.schedule=cosine",
        "outer.average=0.9",
        "evaluation.every=0",
        "evaluation.final_tasks=0",
        "checkpoint.every=4",
        "checkpoint.keep_last=5",
        "tracking.kind=none",
        f"checkpoint.path={tmp_path_factory.mktemp('runs')}",
    ]
    return load_config(f"{JOB}:maml", changes)


def run(base: RunConfig, name: str, *changes: str, resume: bool = False) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), resume=resume, quiet=True)


def cut(base: RunConfig, name: str) -> None:
    """Take a run's last checkpoints away, so that it is resumed from step `KEPT`."""
    for summary in checkpoints.summaries(f"{base.checkpoint.path}/{name}"):
        if summary.step > KEPT:
            (Path(summary.path) / "state.json").unlink()


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig) -> str:
    """The digest that every run must end with."""
    return run(base, "undisturbed", "runtime.executor=local").digest


# Two workers: see the strategies below.
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_ray_workers_gives_the_same_bits(
    ray_cluster: None, base: RunConfig, undisturbed: str, workers: int
) -> None:
    result = run(base, f"workers-{workers}", "runtime.executor=ray", f"runtime.workers={workers}")
    assert result.digest == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_method_has_the_same_bits_on_ray_workers(ray_cluster: None, name: str, tmp_path: Path) -> None:
    changes = ("evaluation.final_tasks=0", "runtime.shard_size=2", f"checkpoint.path={tmp_path}")
    case = case_in(name, tmp_path)
    digest = run(case, "local", *changes).digest
    for workers in (1, 2):
        on_ray = ("runtime.executor=ray", f"runtime.workers={workers}")
        assert run(case, f"workers-{workers}", *changes, *on_ray).digest == digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tent-stream", "ttt"])
def test_test_time_scores_are_the_same_on_ray_workers(ray_cluster: None, name: str, tmp_path: Path) -> None:
    changes = ("runtime.shard_size=2", f"checkpoint.path={tmp_path}")
    alone = run(case_in(name, tmp_path), "local", *changes)
    for workers in (1, 2):
        on_ray = ("runtime.executor=ray", f"runtime.workers={workers}")
        result = run(case_in(name, tmp_path), f"workers-{workers}", *changes, *on_ray)
        assert (result.digest, result.scores) == (alone.digest, alone.scores)


@pytest.mark.slow
def test_updates_added_near_their_workers_give_the_same_bits(ray_cluster: None, base: RunConfig) -> None:
    changes = ("runtime.shard_size=1", "train.tasks_per_step=20", "train.steps=6")
    digest = run(base, "fine-local", *changes, "runtime.executor=local").digest
    result = run(base, "fine-ray", *changes, "runtime.executor=ray", "runtime.tolerance.aggregate=node")
    assert (result.digest, result.counts["groups"]) == (digest, 12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["merlin", "fine_tuning"])
def test_transfer_gives_the_same_bits_and_scores_on_ray_workers(ray_cluster: None, method: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 22, 22), dtype=np.uint8)
    parts = {"train": [15] * 3, "test": [5] * 3}
    write_store(tmp_path / "data", images, class_names=list("abc"), class_counts=[20] * 3, parts=parts)
    store = [f"tasks.{field}={tmp_path / 'data'}" for field in ("store", "target")]
    sizes = ["tasks.examples=12", "tasks.support=6", "tasks.queries=6", "tasks.source_batch=4", "tasks.signature=0.2"]
    small = ["model.filters=[4, 4, 4]", "train.steps=3", "train.tasks_per_step=4", "tracking.kind=none"]
    few = ["algorithm.learner.phases.0.steps=5"] if method == "fine_tuning" else []
    job = ROOT / "jobs" / f"transfer.py:{method}"
    base = load_config(str(job), [*store, *sizes, *small, *few, f"checkpoint.path={tmp_path / 'runs'}"])
    local = run(base, "local", "runtime.executor=local")
    for workers in (1, 2):
        result = run(base, f"workers-{workers}", "runtime.executor=ray", f"runtime.workers={workers}")
        assert (result.digest, result.scores) == (local.digest, local.scores)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lstm", "neural_process", "in_context"])
def test_black_boxes_give_the_same_bits_on_two_workers(ray_cluster: None, base: RunConfig, method: str) -> None:
    job = load_config(f"{JOB}:{method}")
    config = base.model_copy(update={"algorithm": job.algorithm, "model": job.model})
    digest = run(config, f"{method}-local", "runtime.executor=local").digest
    assert run(config, f"{method}-ray", "runtime.executor=ray", "runtime.workers=2").digest == digest


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_bits(base: RunConfig, undisturbed: str) -> None:
    run(base, "resumed", "runtime.executor=local")
    cut(base, "resumed")
    assert run(base, "resumed", "runtime.executor=local", resume=True).digest == undisturbed


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("loop", marks=pytest.mark.slow),
        pytest.param("compiled", marks=pytest.mark.slow),
        pytest.param("compiled_vmap", marks=pytest.mark.slow),
        pytest.param("measured", marks=pytest.mark.slow),
    ],
)
def test_every_strategy_gives_its_own_bits_again(
    ray_cluster: None, compiled_home: Path, monkeypatch: pytest.MonkeyPatch, base: RunConfig, strategy: str
) -> None:
    monkeypatch.setenv("DISTMETA_HOME", str(compiled_home))  # a graph is compiled once, for all of these runs
    changes = (f"engine.strategy={strategy}", "engine.chunk=2")
    name = f"{strategy}-local"
    digest = run(base, name, *changes, "runtime.executor=local").digest
    spread = ("runtime.executor=ray", "runtime.workers=2", "runtime.threads_per_worker=2")
    # What is measured differs from run to run: only a resumed run follows the first one's choice.
    if strategy != "measured":
        assert run(base, f"{strategy}-ray", *changes, *spread).digest == digest
    cut(base, name)
    assert run(base, name, *changes, "runtime.executor=local", resume=True).digest == digest


def test_a_run_killed_half_way_and_resumed_gives_the_same_bits(
    base: RunConfig, undisturbed: str, tmp_path: Path
) -> None:
    config = change(base, ["name=killed", "runtime.executor=local", "checkpoint.every=1"])
    job = tmp_path / "killed.yaml"
    job.write_text(to_yaml(config))
    command = [sys.executable, "-m", "distmeta", "train", str(job)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while checkpoints.latest(config.checkpoint.path, "killed") is None and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(resumed.stdout.splitlines()[-1])
    assert result["steps"] == STEPS
    assert result["digest"] == undisturbed


@pytest.mark.parametrize("steps", [[3], pytest.param([3, 7], marks=pytest.mark.slow)])
def test_workers_killed_in_mid_run_give_the_same_bits(
    ray_cluster: None, base: RunConfig, undisturbed: str, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    killed: list[int] = []

    def step(self: Synchronous, work: Work) -> Step:
        """Make a step after killing a worker, while the other one may be computing the next shard."""
        if self.server.version in steps:
            killed.append(_kill_a_worker(killed))
        return plain_step(self, work)

    plain_step = Synchronous.step
    monkeypatch.setattr(Synchronous, "step", step)
    result = run(base, f"bereft-{len(steps)}", "runtime.executor=ray", "runtime.workers=2")
    assert len(killed) == len(steps)
    assert result.counts["worker_died"] == result.counts["restarts"] == len(steps)
    assert result.digest == undisturbed


@pytest.mark.slow
def test_leaders_killed_in_mid_run_give_the_same_bits_also_resumed(
    no_cluster: None, base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three groups a step: one process, flat workers, four workers under two leaders of which two die."""
    fine = change(base, ["runtime.shard_size=1", "train.tasks_per_step=40", "runtime.cpus_per_worker=0.5"])
    digest = run(fine, "fine-local", "runtime.executor=local").digest
    assert run(fine, "fine-flat", "runtime.executor=ray", "runtime.workers=3").digest == digest
    killed: list[int] = []

    def step(self: Synchronous, work: Work) -> Step:
        if self.server.version in (3, 7):
            killed.append(_kill_a_worker(killed, "LeaderActor"))
        return plain_step(self, work)

    plain_step = Synchronous.step
    monkeypatch.setattr(Synchronous, "step", step)
    led = ("runtime.executor=ray", "runtime.workers=4", "runtime.leaders=2")
    result = run(fine, "led", *led)
    assert (result.digest, result.counts["leader_lost"], result.counts["restarts"]) == (digest, 2, 0)
    assert result.counts["groups"] == 3 * STEPS
    monkeypatch.setattr(Synchronous, "step", plain_step)
    cut(fine, "led")
    assert run(fine, "led", *led, resume=True).digest == digest


def _kill_a_worker(already: list[int], actor: str = "WorkerActor") -> int:
    """Kill a process of an actor of ours below this one; Ray titles it `ray::` and the name of the class."""
    for child in psutil.Process().children(recursive=True):
        title = " ".join(child.cmdline())
        if title.startswith(f"ray::{actor}") and child.pid not in already:
            os.kill(child.pid, signal.SIGKILL)
            return child.pid
    raise AssertionError(f"there is no {actor} to kill")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_job_has_one_digest_in_eight_environments(tmp_path: Path) -> None:
    """The sinusoid job with its default engine: whatever the machine does besides, and did before."""
    fixed = ("train.steps=300", "tracking.kind=none", "evaluation.every=0", "evaluation.final_tasks=0")

    def digest(name: str, *changes: str, home: str = "home", steps: int = 300, throttled: bool = False) -> str:
        sets = (*fixed, f"name={name}", f"checkpoint.path={tmp_path / 'runs'}", f"train.steps={steps}", *changes)
        command = [sys.executable, "-m", "distmeta", "train", f"{JOB}:maml", "--json"]
        command += [part for change_ in sets for part in ("--set", change_)]
        if checkpoints.latest(str(tmp_path / "runs"), name) is not None:
            command.append("--resume")
        environment = {**os.environ, "DISTMETA_HOME": str(tmp_path / home)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            while throttled and process.poll() is None:
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.03)
                process.send_signal(signal.SIGCONT)
                time.sleep(0.01)
            output, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        found: str = json.loads(output.splitlines()[-1])["digest"]
        return found

    local = "runtime.executor=local"
    digests = {
        "local, cold cache": digest("local", local),
        "warm cache": digest("warm", local),
        "two threads": digest("threads", local, "runtime.threads_per_worker=2"),
        "throttled to a quarter": digest("throttled", local, home="other", throttled=True),
        "after a longer run": (digest("longer", local, steps=3000), digest("after", local))[1],
        "ray, two workers": digest("ray", "runtime.executor=ray"),
        "ray, two threads": digest("ray-threads", "runtime.executor=ray", "runtime.threads_per_worker=2"),
        "resumed": (digest("resumed", local, steps=120), digest("resumed", local))[1],
    }
    assert len(set(digests.values())) == 1, digests
    shared = ("engine.strategy=loop", "engine.threads_per_chunk=2")
    of_two_threads = {
        "local": digest("shared", local, *shared, "runtime.threads_per_worker=2"),
        "two chunks at a time": digest("shared-4", local, *shared, "runtime.threads_per_worker=4"),
        "ray": digest("shared-ray", "runtime.executor=ray", *shared, "runtime.threads_per_worker=2"),
    }
    assert len(set(of_two_threads.values())) == 1, of_two_threads
