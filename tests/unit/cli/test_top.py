"""`distmeta jobs top`: a table of a run's workers, read from an MLflow store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from distmeta.cli import main
from distmeta.cli.top import WORKERS_PATH
from distmeta.tracking.store import find_experiment, open_store
from distmeta.training import watch

WORKER = {"leader": None, "shards": 8.0, "busy_share": 0.5, "data_wait_share": 0.0, "failures": 0.0}
NOW = {
    "interval_s": 10.0,
    "step": 12.0,
    "seconds_per_step": 0.5,
    "tasks_per_s": 16.0,
    "workers": 2.0,
    "restarts": 1.0,
    "retries": 2.0,
    "copies": 3.0,
    "failures_by_node": {"10.0.0.7 (beef)": 4},
    "workers_now": [
        {**WORKER, "index": 0, "state": "ready", "node": "n0", "seconds_per_shard": 0.1, "times_typical": 1.0},
        {**WORKER, "index": 1, "state": "ready", "node": "n1", "seconds_per_shard": 0.3, "times_typical": 3.0},
        {**WORKER, "index": 2, "state": "backoff", "node": "n2", "seconds_per_shard": None, "times_typical": 0.0},
    ],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the running run `live` and the finished run `new`, which has not shown its workers."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('top') / 'mlflow.db'}"
    client = open_store(uri)
    experiment = find_experiment(client, uri, "default")
    for name in ("live", "new"):
        run = client.create_run(experiment, run_name=name)
        if name == "live":
            client.log_metric(run.info.run_id, "train/loss", 1.25)
            client.log_text(run.info.run_id, json.dumps({**NOW, "time": time.time()}), WORKERS_PATH)
        else:
            client.set_terminated(run.info.run_id)
    return uri


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main(["jobs", "top", *arguments])
    assert end.value.code == expect
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_the_path_is_that_of_the_run() -> None:
    assert WORKERS_PATH == watch.PATH


def test_workers_that_need_a_look_come_first(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "live", "--uri", store, "--once")
    assert out.startswith("live  RUNNING  step 12  loss 1.25\n2 workers  16 tasks/s  0.5 s a step  restarts 1")
    assert "failed 4 times: 10.0.0.7 (beef)" in out
    assert out.index("n2") < out.index("n1") < out.index("n0")
    assert "slow: 3.0" in out


def test_json_holds_everything(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "live", "--uri", store, "--json")
    shown: dict[str, Any] = json.loads(out)
    assert (shown["status"], shown["metrics"]["train/loss"]) == ("RUNNING", 1.25)
    assert shown["workers"]["workers_now"] == NOW["workers_now"]


def test_a_run_that_has_ended_is_shown_once(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "new", "--uri", store)
    assert out == "new  FINISHED  nothing is known of its workers yet\n"


def test_what_is_not_there_is_named(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "lve", "--uri", store, expect=2)
    assert "RUN: no run 'lve'" in err and "live" in err and len(err.splitlines()) == 1
    missing = tmp_path / "other.db"
    _, err = run(capsys, "live", "--uri", f"sqlite:///{missing}", expect=2)
    assert "there is no such store" in err and not missing.exists()
