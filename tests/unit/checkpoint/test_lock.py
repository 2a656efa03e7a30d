"""One process at a time trains a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distmeta.checkpoint import lock
from distmeta.checkpoint.lock import run_lock
from distmeta.core.errors import UserError


def _hold(root: str, held: Event) -> None:
    with run_lock(root, "a"):
        held.set()
        time.sleep(600)


@pytest.mark.thorough
def test_another_process_is_refused_until_the_first_one_ends_however_it_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), held))
    process.start()
    assert held.wait(60)
    with (
        pytest.raises(UserError, match=rf"the run 'a' is being trained by process {process.pid} on"),
        run_lock(str(tmp_path), "a"),
    ):
        pass
    with run_lock(str(tmp_path), "b"):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with run_lock(str(tmp_path), "a"):
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    monkeypatch.setattr(lock, "_SETTLE_S", 0.0)
    return "memory://bucket/runs"


def test_on_an_object_store_a_lock_is_held_and_removed(bucket: str) -> None:
    refused = pytest.raises(UserError, match="the run 'a' is being trained by process")
    with run_lock(bucket, "a"), refused, run_lock(bucket, "a"):
        pass
    with run_lock(bucket, "a"):
        pass
    assert not any("lock" in path for path in MemoryFileSystem.store)


def test_on_an_object_store_a_lock_is_renewed_and_one_that_is_not_is_stale(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.02)
    file = "/bucket/runs/.a.lock"
    with run_lock(bucket, "a"):
        first = json.loads(MemoryFileSystem.store[file].getvalue())["time"]
        deadline = time.monotonic() + 10
        while json.loads(MemoryFileSystem.store[file].getvalue())["time"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        content = MemoryFileSystem.store[file].getvalue()
    fs = MemoryFileSystem()
    fs.pipe_file(file, json.dumps({**json.loads(content), "time": time.time() - lock.STALE_S - 1}).encode())
    with run_lock(bucket, "a"):
        pass
    fs.pipe_file(file, b"{ not json")
    with run_lock(bucket, "a"):
        pass


def test_of_two_that_write_at_once_the_last_one_holds(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(_: float) -> None:
        MemoryFileSystem().pipe_file("/bucket/runs/.a.lock", json.dumps({"pid": 7, "host": "x", "token": "y"}).encode())

    monkeypatch.setattr(lock.time, "sleep", overwrite)
    with pytest.raises(UserError, match="process 7 on x"), run_lock(bucket, "a"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"checkpoint\.path.*cannot be written"), run_lock(str(tmp_path / "file"), "a"):
        pass
