"""A real MLflow server on loopback: runs, outages, and the command that starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distmeta.core.errors import UserError
from distmeta.tracking.mlflow import MlflowTracker
from distmeta.tracking.ui import MlflowServer

from ..logged import Logged

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def tracker_of(server: str, tmp_path: Path, close_timeout_s: float = 60.0) -> MlflowTracker:
    return MlflowTracker(server, "tests", unsent=tmp_path / "unsent", interval_s=0.05, close_timeout_s=close_timeout_s)


@pytest.mark.slow
def test_an_outage_neither_loses_nor_duplicates_values(port: int, tmp_path: Path, logged: Logged) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "plot.png").write_bytes(b"png")
    with MlflowServer(uri, port=port) as server:
        tracker = tracker_of(server.address, tmp_path)
        run_id = tracker.start("run", {"a": 1}, None)
        tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 0.5})
    tracker.artifact(tmp_path / "plot.png", "pictures")
    with MlflowServer(uri, port=port) as server:
        tracker.log(3, {"loss": 0.25})
        tracker.close()
        client = MlflowClient(server.address)
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == [1, 2, 3]
        assert [file.path for file in client.list_artifacts(run_id, "pictures")] == ["pictures/plot.png"]
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        charts = f"runs/{run_id}/model-metrics?workflowType=machine_learning"
        assert tracker.address() == f"{server.address}/#/experiments/{run.info.experiment_id}/{charts}"
    assert not (tmp_path / "unsent").exists()

    # The run is resumed, and its server stays unavailable until the run ends.
    with MlflowServer(uri, port=port) as server:
        tracker = tracker_of(server.address, tmp_path, close_timeout_s=1.0)
        assert tracker.start("run", {"a": 1}, run_id) == run_id
    tracker.log(3, {"loss": 9.0})
    tracker.log(4, {"loss": 0.125})
    tracker.artifact(tmp_path / "plot.png", "pictures")
    tracker.close()
    unsent = tmp_path / "unsent" / run_id
    lines = [json.loads(line) for line in (unsent / "metrics.jsonl").read_text().splitlines()]
    assert [(line["key"], line["step"], line["value"]) for line in lines] == [("loss", 4, 0.125)]
    assert (unsent / "0-plot.png").read_bytes() == b"png"
    assert str(unsent) in logged.text


def test_an_unavailable_server_is_reported_in_one_line(port: int, tmp_path: Path) -> None:
    tracker = tracker_of(f"http://me:secret@127.0.0.1:{port}", tmp_path)
    with pytest.raises(
        UserError, match=rf"tracking\.uri: the store http://me:\*\*\*@127\.0\.0\.1:{port} cannot"
    ) as raised:
        tracker.start("run", {}, None)
    assert "secret" not in str(raised.value)


def test_a_port_in_use_and_the_uri_of_a_server_are_refused(port: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(UserError, match=rf"--port: port {port} of 127\.0\.0\.1 cannot be used"):
            MlflowServer("sqlite:///mlflow.db", port=port)
    with pytest.raises(UserError, match="is a server already"):
        MlflowServer("http://127.0.0.1:5000")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_serves_the_store_and_ends_cleanly(port: int, tmp_path: Path, number: signal.Signals) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").touch()
    command = [sys.executable, "-m", "distmeta", "ui", "--uri", uri, "--port", str(port), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        assert address == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/health") as response:
            assert response.status == 200
        process.send_signal(number)
        assert process.wait(60) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
