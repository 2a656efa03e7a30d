"""`cluster/ray/leave.py`: notices of two clouds, from a metadata server of ours, and what it then asks Ray for."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from .deployed import CLUSTER

SCRIPT = CLUSTER / "ray" / "leave.py"


class Metadata(ThreadingHTTPServer):
    """A metadata server of both clouds, as their documents describe it.

    Attributes:
        notice: Body of EC2's notice; None: 404.
        preempted: What Compute Engine says.
        asked: Paths, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.notice: str | None = None
        self.preempted = "FALSE"
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        ok = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self._answer(200 if ok else 400, "TOKEN")

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "TOKEN":
                self._answer(401, "")
            elif self.server.notice is None:
                self._answer(404, "Not Found")
            else:
                self._answer(200, self.server.notice)
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self._answer(200, self.server.preempted)
        else:
            self._answer(403, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("leave", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "POLL_S", 0.05)
    return module


def in_two_minutes() -> str:
    ends = datetime.now(UTC) + timedelta(seconds=120)
    return json.dumps({"action": "terminate", "time": ends.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_a_spot_notice_says_how_long_is_left(leave: ModuleType, metadata: Metadata) -> None:
    assert leave.notice_aws(metadata.url) is None
    metadata.notice = in_two_minutes()
    assert 115 <= leave.notice_aws(metadata.url) <= 120
    metadata.notice = json.dumps({"action": "stop", "time": "2020-01-01T00:00:00Z"})
    assert leave.notice_aws(metadata.url) == 1  # late, but still worth the try


def test_a_preempted_machine_has_less_than_half_a_minute(leave: ModuleType, metadata: Metadata) -> None:
    assert leave.notice_gcp(metadata.url) is None
    metadata.preempted = "TRUE"
    assert leave.notice_gcp(metadata.url) == leave.GCP_NOTICE_S < 30


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_it_waits_until_there_is_a_notice(leave: ModuleType, metadata: Metadata, cloud: str) -> None:
    found: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: found.append(leave.watch(cloud, metadata.url, threading.Event())))
    thread.start()
    while len(metadata.asked) < 3:
        time.sleep(0.01)
    assert not found
    metadata.notice, metadata.preempted = in_two_minutes(), "TRUE"
    thread.join(timeout=10)
    assert [why for _, why in found] == [f"notice of {cloud}"]


def test_a_server_that_does_not_answer_is_asked_again(
    leave: ModuleType, metadata: Metadata, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata.notice = "no JSON"
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    assert leave.watch("aws", metadata.url, stopped) == (leave.UNKNOWN_NOTICE_S, "SIGTERM")
    assert len(metadata.asked) > 2
    assert capsys.readouterr().err.count("does not answer") == 1


def ray_in(folder: Path) -> Path:
    """A `ray` that writes its arguments down, beside a Python of its own folder."""
    command, said = folder / "ray", folder / "said"
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\nexit 7\n')
    command.chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    return said


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(folder / "python"), str(SCRIPT), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]})


def test_without_a_watch_the_node_is_drained_now(tmp_path: Path) -> None:
    said = ray_in(tmp_path)
    process = start(tmp_path, "--address", "10.0.0.1:6379", "--seconds", "20")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 7  # that of Ray's command
    assert err == "leave.py: asked to leave: this node leaves, 20 s are left\n"
    arguments = said.read_text().split("\n")[:-1]
    assert arguments[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert arguments[-4:] == ["--deadline-remaining-seconds", "20", "--address", "10.0.0.1:6379"]


def test_a_machine_that_shuts_down_drains_as_well(tmp_path: Path, metadata: Metadata) -> None:
    said = ray_in(tmp_path)
    process = start(tmp_path, "--watch", "gcp", "--metadata", metadata.url)
    while not metadata.asked:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert "SIGTERM: this node leaves" in err
    assert "drain-node" in said.read_text()
