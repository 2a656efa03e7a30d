"""`distmeta tune` on a real cluster of this machine: a stop, `--resume`, and the same result as without one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = """
name: waves
tasks: {source: sinusoid}
model: {kind: mlp, hidden: [8, 8]}
algorithm: {learner: {kind: gradient, phases: [{steps: 2, lr: 0.01}]}}
runtime: {executor: local, shard_size: 2}
train: {steps: 300, tasks_per_step: 4}
evaluation: {every: 0, tasks: 20, final_tasks: 20}
checkpoint: {path: runs, every: 50}
"""
SPACE = "algorithm.learner.phases.0.lr: {log_uniform: [1e-4, 1e-1]}\n"
COMMAND = (sys.executable, "-m", "distmeta", "tune", "waves.yaml", "--space", "space.yaml", "--draws", "3", "--json")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "waves.yaml").write_text(JOB)
    (folder / "space.yaml").write_text(SPACE)
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *options], cwd=folder, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_search_goes_on_to_the_same_result(tmp_path: Path) -> None:
    process = start(tmp_path / "whole", "--at-once", "2")
    whole = json.loads(process.communicate()[0].splitlines()[-1])
    assert process.returncode == 0
    assert [trial["error"] for trial in whole["trials"]] == [None] * 3
    assert len({trial["mean"] for trial in whole["trials"]}) == 3

    stopped = start(tmp_path / "stopped", "--at-once", "1")
    while not list((tmp_path / "stopped").glob("runs/waves-trial0/step-*/state.json")):
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    error = stopped.communicate(timeout=60)[1].splitlines()[-1]
    assert stopped.returncode == 143
    assert "continue with `distmeta tune waves.yaml --space space.yaml --draws 3 --at-once 1 --resume`" in error

    process = start(tmp_path / "stopped", "--resume")
    again = json.loads(process.communicate()[0].splitlines()[-1])
    assert [trial["mean"] for trial in again["trials"]] == [trial["mean"] for trial in whole["trials"]]
    assert again["best"]["digest"] == whole["best"]["digest"]
