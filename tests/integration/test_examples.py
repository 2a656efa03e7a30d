"""`jobs/examples/`: networks, tables, learners and objectives of one's own, on any executor to the same bits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distmeta.config.load import load_config
from distmeta.training import train

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "jobs" / "examples").glob("*.py"))
MAX_LINES = 60
SHORT = (
    "train.steps=3",
    "evaluation.every=0",
    "evaluation.final_tasks=4",
    "tracking.kind=none",
    "runtime.workers=2",
    "runtime.threads_per_worker=1",
)
pytestmark = pytest.mark.xdist_group("ray")


def local_digest(example: str, folder: Path) -> str:
    config = load_config(example, [*SHORT, f"checkpoint.path={folder}", "runtime.executor=local"])
    return train(config, quiet=True).digest


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_short_and_touches_nothing_of_the_package(example: str) -> None:
    text = (ROOT / example).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert not re.search(r"BACKBONES|SOURCES|LEARNERS|ESTIMATORS|OBJECTIVES|setattr|monkeypatch", text)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
    "example", [pytest.param(each, marks=() if "ridge" in each else pytest.mark.slow) for each in EXAMPLES]
)
def test_two_workers_give_the_bits_of_one_process(
    example: str, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(example, [*SHORT, f"checkpoint.path={tmp_path / 'ray'}"])
    assert train(config, quiet=True).digest == local_digest(example, tmp_path / "local")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_gives_the_bits_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    script, folder = ROOT / "cluster" / "local.sh", tmp_path / "cluster"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHON": sys.executable}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run(str(script), "up", "--dir", str(folder), "--workers", "2")
    try:
        for line in run(str(script), "env", "--dir", str(folder)).splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value.strip("'\"")
        for example in EXAMPLES:
            changes = [argument for change in SHORT for argument in ("--set", change)]
            command = [sys.executable, "-m", "distmeta", "submit", example, "--follow"]
            output = run(*command, *changes, "--set", f"checkpoint.path={tmp_path / 'submitted'}")
            found = re.findall(r"\b[0-9a-f]{64}\b", output)
            assert local_digest(example, tmp_path / "local") in found, json.dumps(output[-2000:])
    finally:
        run(str(script), "down", "--dir", str(folder))


@pytest.mark.slow
def test_ray_tune_ends_poor_trials_early(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "tune" / "asha.py"), "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"best inner rate \d\.\d\de-\d\d, loss \d\.\d{3}", done.stdout)
