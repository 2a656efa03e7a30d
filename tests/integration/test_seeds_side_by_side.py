"""`distmeta train JOB --seeds N --at-once K` in real processes: the same bits, stops, failures, and a killed parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from distmeta import checkpoint as checkpoints
from distmeta import train_seeds
from distmeta.config.load import load_config
from distmeta.training.seeds import SeedsResult

STEPS = 100
JOB = f"""
from distmeta.config import *

def config() -> RunConfig:
    return RunConfig(
        name="waves",
        tasks=PythonTasks(target="own.py:Waves"),
        model=MlpConfig(hidden=(8, 8)),
        algorithm=AlgorithmConfig(learner=GradientConfig(phases=(Phase(steps=2, lr=0.01),))),
        engine=EngineConfig(strategy="vmap"),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        train=TrainConfig(steps={STEPS}, tasks_per_step=4),
        evaluation=EvaluationConfig(every=0, final_tasks=8),
        checkpoint=CheckpointConfig(path="runs", every=1000),
        tracking=TrackingConfig(kind="none"),
    )
"""
OWN = """
import helper
from distmeta.config import SinusoidTasks
from distmeta.tasks.sinusoid import SinusoidSource

class Waves(SinusoidSource):
    def __init__(self, seed, dtype, bad=None):
        helper.check(seed, bad)
        super().__init__(SinusoidTasks(shots=5, queries=5, eval_queries=10), seed, dtype)
"""
HELPER = """
def check(seed, bad):
    if seed == bad:
        raise ValueError("a bad seed")
"""


@pytest.fixture(autouse=True)
def _here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(here, monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SeedsResult:
    """Trained one after the other in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        write_job(Path.cwd(), patch)
        return train_seeds(load_config("waves.py"), seeds=2, at_once=1, quiet=True)


def write_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job, and own code that imports what this process finds in a further folder."""
    for name, content in (("waves.py", JOB), ("own.py", OWN), ("lib/helper.py", HELPER)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.syspath_prepend(folder / "lib")


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distmeta", "train", "waves.py", "--seeds", "2", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["lib", os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(*options: str) -> dict[str, Any]:
    process = start("--json", *options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def digests(result: SeedsResult | dict[str, Any]) -> list[str]:
    results = result.results if isinstance(result, SeedsResult) else result["results"]
    return [each["digest"] for each in results]


def wait_for_steps(process: subprocess.Popen[str]) -> None:
    """Wait until both seeds have made a step. The checkpoint before the first one is then the only one."""
    seen = set()
    assert process.stdout is not None
    for line in process.stdout:
        if f"| step 1/{STEPS}" in line:
            seen.add(line[: len("seed 0")])
        if seen == {"seed 0", "seed 1"}:
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def last_steps() -> list[int]:
    return [max(each.step for each in checkpoints.summaries(Path("runs") / f"waves-seed{seed}")) for seed in (0, 1)]


@pytest.mark.slow
def test_the_same_bits_as_one_after_the_other(undisturbed: SeedsResult, capfd: pytest.CaptureFixture[str]) -> None:
    config = load_config("waves.py")
    two = train_seeds(config, seeds=2, at_once=2)
    assert f"seed 1 | step {STEPS}/{STEPS}" in capfd.readouterr().out
    assert digests(two) == digests(undisturbed)
    assert two.scores == undisturbed.scores
    assert [each["name"] for each in two.results] == ["waves-seed0", "waves-seed1"]
    assert train_seeds(config, seeds=2, at_once=2, resume=True) == two, "finished seeds are left out"
    assert "seed 1 |" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_stopped_parent_leaves_checkpoints_and_goes_on_to_the_same_bits(undisturbed: SeedsResult) -> None:
    process = start("--at-once", "2")
    wait_for_steps(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    again = "distmeta train waves.py --seeds 2 --at-once 2 --resume"
    assert err.splitlines() == [f"error: stopped by SIGTERM; continue with `{again}`"]
    assert all(0 < step < STEPS for step in last_steps())
    assert digests(result_of("--at-once", "2", "--resume")) == digests(undisturbed)


@pytest.mark.slow
def test_children_of_a_killed_parent_save_and_end() -> None:
    process = start("--at-once", "2")
    wait_for_steps(process)
    children = psutil.Process(process.pid).children()
    assert [os.getsid(child.pid) for child in children] == [child.pid for child in children], "Ctrl-C reaches no child"
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert all(0 < step < STEPS for step in last_steps())


@pytest.mark.slow
def test_a_failing_seed_is_one_line() -> None:
    process = start("--at-once", "2", "--set", "tasks.options={bad: 1}")
    _, err = process.communicate(timeout=60)
    assert err.splitlines() == ["error: tasks: own.py:Waves raises ValueError: a bad seed"]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seeds", "2", "--at-once", "3"], "--at-once: 3 seeds at a time; allowed: 1 to 2"),
        (["--at-once", "2"], "--at-once: given without --seeds; allowed: --seeds N --at-once K"),
    ],
)
def test_refused_numbers(capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    from distmeta.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["train", "waves.py", *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"
