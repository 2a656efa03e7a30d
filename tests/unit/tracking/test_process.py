"""The process that talks to the store, with a program that stands for it; and the replies of the real one."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distmeta.core.errors import UserError
from distmeta.tracking import process as module
from distmeta.tracking.answer import answer_to
from distmeta.tracking.client import StoreClient
from distmeta.tracking.failure import StoreFailure
from distmeta.tracking.process import StoreProcess, close_shared, store_process

PROGRAM = """
import json, os, sys, threading
release = threading.Event()
def answer(request):
    method, arguments = request["method"], request["arguments"]
    if method == "die":
        os._exit(9)
    if method == "wait":
        release.wait()
    if method == "release":
        release.set()
    reply = {"value": [os.getpid(), *arguments]}
    if method == "fail":
        reply = {"error": {"kind": "RestException", "what": "busy", "outage": True}}
    if method == "refuse":
        reply = {"error": {"what": "deleted", "where": "tracking.experiment", "allowed": "another"}}
    os.write(1, json.dumps({"id": request["id"], **reply}).encode() + b"\\n")
for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
os._exit(0)
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreProcess]:
    (tmp_path / "fake_answers.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "_PROGRAM", "fake_answers")
    close_shared()
    yield store_process(server=False)
    close_shared()


def test_values_come_back_as_they_were(process: StoreProcess) -> None:
    _, text, number = process.call("echo", "caf\udce9 \n", -math.inf)
    assert (text, number) == ("caf\udce9 \n", -math.inf)


def test_requests_do_not_wait_for_each_other(process: StoreProcess) -> None:
    waiting = threading.Thread(target=process.call, args=("wait",))
    waiting.start()
    process.call("release")
    waiting.join()


def test_errors_are_those_of_the_store(process: StoreProcess) -> None:
    with pytest.raises(StoreFailure, match=r"^RestException: busy$") as raised:
        process.call("fail")
    assert (raised.value.outage, raised.value.what) == (True, "busy")
    with pytest.raises(UserError, match=r"^tracking\.experiment: deleted; allowed: another$"):
        process.call("refuse")


def test_a_process_that_is_killed_fails_its_requests_and_is_replaced(process: StoreProcess) -> None:
    waiting: list[StoreFailure] = []

    def wait() -> None:
        with pytest.raises(StoreFailure) as raised:
            process.call("wait")
        waiting.append(raised.value)

    thread = threading.Thread(target=wait)
    thread.start()
    with pytest.raises(StoreFailure, match="the tracking process has ended") as raised:
        process.call("die")
    thread.join()
    assert raised.value.outage and waiting[0].outage
    with pytest.raises(StoreFailure):
        process.call("echo")
    assert store_process(server=False) is not process
    assert store_process(server=False).call("echo", 1)[1:] == [1]


def test_a_process_that_is_stuck_is_ended_and_replaced(process: StoreProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "_ANSWER_TIMEOUT_S", 0.2)
        with pytest.raises(StoreFailure, match=r"the tracking process has not answered for 0\.2 s") as raised:
            process.call("wait")
    assert raised.value.outage
    with pytest.raises(StoreFailure, match="has ended"):
        process.call("echo")
    assert store_process(server=False) is not process


def test_all_trackers_share_one_process_until_the_settings_of_stores_change(
    process: StoreProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    [pid] = process.call("echo")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert store_process(server=True).call("echo") == [pid]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert store_process(server=True).call("echo") != [pid]


class FakeClient(StoreClient):
    def open(self, uri: str, home: str | None = None) -> None:
        raise {"outage": ConnectionResetError("reset"), "user": UserError("x", where="y"), "bug": KeyError("z")}[uri]

    def end(self, uri: str, run_id: str, status: str) -> None:
        assert (uri, run_id, status) == ("uri", "run", "FINISHED")


@pytest.mark.parametrize(
    ("method", "arguments", "reply"),
    [
        ("end", ["uri", "run", "FINISHED"], {"value": None}),
        ("open", ["outage"], {"error": {"kind": "ConnectionResetError", "what": "reset", "outage": True}}),
        ("open", ["user"], {"error": {"what": "x", "where": "y", "allowed": None}}),
        ("open", ["bug"], {"error": {"kind": "KeyError", "what": "'z'", "outage": False}}),
        ("_client", ["uri"], {"error": {"kind": "ValueError", "what": "unknown method _client", "outage": False}}),
    ],
)
def test_replies(method: str, arguments: list[Any], reply: dict[str, Any]) -> None:
    assert answer_to(FakeClient(), {"id": 0, "method": method, "arguments": arguments}) == reply
