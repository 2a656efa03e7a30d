"""A run that is stopped, by any signal at any moment, can be continued to the digest of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.training import train

pytestmark = pytest.mark.xdist_group("ray")

JOB = Path(__file__).parents[2] / "jobs" / "sinusoid.py"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEPS = 60


@pytest.fixture(scope="module")
def base() -> RunConfig:
    changes = [
        f"train.steps={STEPS}",
        "train.tasks_per_step=8",
        "runtime.shard_size=4",
        "evaluation.every=0",
        "evaluation.final_tasks=4",
        "checkpoint.every=20",
        "tracking.model=false",
    ]
    return load_config(f"{JOB}:maml", changes)


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("undisturbed")
    changes = ["runtime.executor=local", "tracking.kind=none", f"checkpoint.path={path}"]
    return train(change(base, changes), quiet=True).digest


class Run:
    """The command that trains a run in `folder`, with a temporary folder of its own."""

    def __init__(self, base: RunConfig, executor: str, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.database = folder / "mlflow.db"
        config = change(
            base,
            [
                f"runtime.executor={executor}",
                f"tracking.uri=sqlite:///{self.database}",
                f"checkpoint.path={folder / 'runs'}",
            ],
        )
        self.name, self.runs = config.name, config.checkpoint.path
        self.job = folder / "job.yaml"
        self.job.write_text(to_yaml(config))
        # Ray's sockets need a short path: its session folder is looked for where it always is.
        self.environment = {**os.environ, "TMPDIR": str(self.temporary), "RAY_TMPDIR": tempfile.gettempdir()}

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "distmeta", "train", str(self.job), *options]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def left_behind(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir()]


def stop(run: Run, signum: signal.Signals, times: int, wait_s: float) -> None:
    """Start the run, send it a signal after `wait_s`, and check how it ends."""
    process = run.start()
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    for _ in range(times):
        process.send_signal(signum)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        return  # it was done before the signal arrived
    assert process.returncode in (128 + signum, -signum), errors  # the latter before Python has begun
    assert "Traceback" not in errors and "*** SIG" not in errors and "C  [" not in errors, errors
    if process.returncode > 0 and "stopped by" in errors:
        assert f"stopped by {signum.name}" in errors.splitlines()[-1], errors
    assert run.left_behind() == []


def finish(run: Run, undisturbed: str) -> None:
    """Continue the run as often as it takes, and compare its end."""
    has_checkpoint = checkpoints.latest(run.runs, run.name) is not None
    process = run.start("--json", *(["--resume"] if has_checkpoint else []))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["digest"] == undisturbed


@pytest.mark.parametrize(
    ("executor", "signum", "times"),
    [
        pytest.param("local", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param("local", signal.SIGHUP, 1, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_says_how_to_go_on_and_does(
    base: RunConfig, undisturbed: str, tmp_path: Path, executor: str, signum: signal.Signals, times: int
) -> None:
    run = Run(base, executor, tmp_path)
    process = run.start()
    while not run.database.exists() or checkpoints.latest(run.runs, run.name) is None:
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(times):
        process.send_signal(signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, errors
    last = errors.splitlines()[-1]
    assert last == f"error: stopped by {signum.name}; continue with `distmeta train {run.job} --resume`"
    assert "Traceback" not in errors and "***" not in errors
    assert run.left_behind() == []
    client = MlflowClient(f"sqlite:///{run.database}")
    (recorded,) = client.search_runs([client.get_experiment_by_name("distmeta").experiment_id])
    assert recorded.info.status == "KILLED"
    finish(run, undisturbed)
    assert client.get_run(recorded.info.run_id).info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_stops_at_random_moments(base: RunConfig, undisturbed: str, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("DISTMETA_STOPS_SEED", "0")))
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        executor = ("local", "ray")[number % 2]
        run = Run(base, executor, folder)
        stop(
            run, chance.choice(SIGNALS), chance.choice((1, 2)), chance.uniform(0.5, 12.0 if executor == "ray" else 7.0)
        )
        finish(run, undisturbed)
        assert run.left_behind() == []
