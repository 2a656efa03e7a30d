"""Checkpoint stores that are full, unavailable or failing: earlier checkpoints stay intact, and training continues."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from distmeta import checkpoint
from distmeta.checkpoint import storage
from distmeta.checkpoint.saver import Saver, retry_wait_s
from distmeta.checkpoint.storage import Folder, StoreError
from distmeta.config import CheckpointConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.server.outer import PARAMS
from distmeta.tasks.base import TaskSignature
from distmeta.tracking.base import MetricPoint

from ...logged import Logged

SIGNATURE = TaskSignature(
    input_shape=(1, 28, 28), num_outputs=5, train_outputs={"query": 20}, objective="cross_entropy"
)
FULL_DISK_BYTES = 1 << 20


class FlakyFileSystem(MemoryFileSystem):
    """An in-memory file system whose operations can be made to fail."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 -- fsspec stores it on the class
    pseudo_dirs = [""]  # noqa: RUF012
    failing: set[str] = set()  # noqa: RUF012

    def _fail_if_set(self, operation: str, path: str) -> None:
        if operation in self.failing:
            raise RuntimeError(f"the client of s3://me:hunter2@bucket rejects {operation} of {path}")

    def info(self, path: str, **options: Any) -> Any:
        self._fail_if_set("info", path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._fail_if_set("ls", path)
        return super().ls(path, detail, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self._fail_if_set("write", path)
        if path.endswith("state.json"):
            self._fail_if_set("mark", path)
        super().pipe_file(path, value, **options)

    def cat_file(self, path: str, **options: Any) -> Any:
        self._fail_if_set("read", path)
        return super().cat_file(path, **options)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self._fail_if_set("rm", path)
        super().rm(path, recursive, maxdepth)


@pytest.fixture
def flaky() -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    FlakyFileSystem.store.clear()
    FlakyFileSystem.pseudo_dirs[:] = [""]
    yield FlakyFileSystem
    FlakyFileSystem.failing.clear()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def config_of(root: Path | str, keep_last: int = 2) -> RunConfig:
    return RunConfig(name="run-1", checkpoint=CheckpointConfig(path=str(root), keep_last=keep_last))


def save(config: RunConfig, step: int, size: int = 10, **extra: Any) -> str:
    state = {f"{PARAMS}w": torch.full((size,), float(step)), "version": step}
    return checkpoint.save(config, step, state, signature=SIGNATURE, **extra)


def steps(root: Path | str) -> list[int]:
    return [summary.step for summary in checkpoint.summaries(root)]


def test_a_full_disk_leaves_only_the_previous_checkpoint(small_disk: Path) -> None:
    config = config_of(small_disk)
    save(config, 1, size=100_000)
    with pytest.raises(StoreError, match=r"cannot be written: No space left on device") as caught:
        save(config, 2, size=200_000)
    assert caught.value.full and "\n" not in str(caught.value)
    assert os.listdir(small_disk / "run-1") == ["step-00000001"]
    loaded = checkpoint.load(small_disk / "run-1")
    assert loaded.digest == digest(loaded.params)
    save(config, 2, size=100_000)
    assert steps(small_disk) == [1, 2]


def test_incomplete_checkpoints_are_removed_when_the_disk_is_full(small_disk: Path) -> None:
    config = config_of(small_disk)
    save(config, 1)
    for name in (".saving-new-step-00000002", "step-00000003"):
        (small_disk / "run-1" / name).mkdir()
        (small_disk / "run-1" / name / "meta.safetensors").write_bytes(bytes(400_000))
    save(config, 4, size=150_000)
    assert sorted(os.listdir(small_disk / "run-1")) == ["step-00000001", "step-00000004"]


def test_old_checkpoints_are_removed_first_when_the_disk_is_full(small_disk: Path) -> None:
    for step in (1, 2, 3):
        save(config_of(small_disk, keep_last=3), step, size=60_000)
    save(config_of(small_disk, keep_last=1), 4, size=120_000)
    assert steps(small_disk) == [4]


def test_a_checkpoint_that_cannot_be_replaced_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    save(config, 1, score=0.5)
    replace = os.replace

    def fail_for_new(source: Any, target: Any) -> None:
        if "saving-new" in str(source):
            raise OSError(errno.EIO, "the disk is dying")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_new)
    with pytest.raises(StoreError, match="the disk is dying"):
        save(config, 1)
    assert checkpoint.load(tmp_path / "run-1").score == 0.5
    assert os.listdir(tmp_path / "run-1") == ["step-00000001"]


def test_a_file_instead_of_the_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run-1").write_text("")
    config = config_of(tmp_path)
    with pytest.raises(StoreError, match="cannot be written"):
        save(config, 1)
    with pytest.raises(UserError, match=r"^checkpoint\.path: .*/run-1: checkpoints cannot be written: .*; allowed: "):
        checkpoint.probe(config)
    (tmp_path / "run-1").unlink()
    checkpoint.probe(config)
    assert os.listdir(tmp_path / "run-1") == []


@pytest.mark.parametrize("operation", ["info", "write", "mark"])
def test_a_failing_object_store_leaves_the_previous_checkpoint(flaky: type[FlakyFileSystem], operation: str) -> None:
    config = config_of("flaky://bucket/runs")
    save(config, 1)
    flaky.failing.add(operation)
    with pytest.raises(StoreError) as caught:
        save(config, 2)
    assert "RuntimeError: the client of s3://me:***@bucket rejects" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    flaky.failing.clear()
    assert steps("flaky://bucket/runs") == [1]
    save(config, 3)
    children = Folder.at("flaky://bucket/runs/run-1").children()
    assert [child.name for child in children] == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("operation", ["rm", "ls", "read"])
def test_a_failing_clean_up_is_only_logged(flaky: type[FlakyFileSystem], logged: Logged, operation: str) -> None:
    root = "flaky://bucket/runs"
    config = config_of(root, keep_last=1)
    save(config, 1, score=0.9)
    save(config, 2)
    flaky.failing.add(operation)
    assert save(config, 3).endswith("step-00000003")
    assert "older ones are kept until the next save" in logged.text
    flaky.failing.clear()
    assert set(steps(root)) >= {1, 3}, "the best one was treated as one without a score"
    save(config, 4)
    assert steps(root) == [1, 4]


def test_an_unavailable_store_is_not_mistaken_for_an_empty_one(flaky: type[FlakyFileSystem]) -> None:
    config = config_of("flaky://bucket/runs")
    save(config, 1)
    for operation in ("info", "ls", "read"):
        flaky.failing = {operation}
        with pytest.raises(StoreError):
            checkpoint.load(checkpoint.latest("flaky://bucket/runs", "run-1") or "")
    flaky.failing = set()
    with pytest.raises(UserError, match="there is no such file or folder"):
        checkpoint.load("flaky://bucket/other")


def test_a_store_that_fails_or_does_not_answer_at_first_is_the_users_to_fix(
    flaky: type[FlakyFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(config_of("flaky://bucket/runs"), 1)
    flaky.failing = {"info"}
    for read in (checkpoint.load, checkpoint.summaries):
        with pytest.raises(
            UserError, match=r"^flaky://bucket/.*: the store is unavailable: RuntimeError: .*; allowed: "
        ):
            read(path)
    with pytest.raises(UserError, match=r"^checkpoint\.path: flaky://bucket/runs: the store is unavailable"):
        checkpoint.check_store("flaky://bucket/runs")
    flaky.failing = {"write"}
    with (
        pytest.raises(UserError, match=r"^checkpoint\.path: flaky://bucket/runs: the run's lock cannot be written"),
        checkpoint.run_lock("flaky://bucket/runs", "run-1"),
    ):
        pass
    ended = threading.Event()
    monkeypatch.setattr(storage, "ANSWER_S", 0.1)
    monkeypatch.setattr(flaky, "info", lambda *_: ended.wait(60.0))
    with pytest.raises(UserError, match=r"^checkpoint\.path: flaky://bucket/runs: no answer within 0\.1 s; allowed: "):
        checkpoint.check_store("flaky://bucket/runs")
    ended.set()


def test_pending_values_round_trip(tmp_path: Path) -> None:
    points = [MetricPoint("train/loss", 1 / 3, 1_700_000_000_123, 7), MetricPoint("x", float("inf"), 1, 0)]
    config = config_of(tmp_path)
    path = save(config, 1, pending=points)
    assert checkpoint.load(path).step == 1
    assert checkpoint.pending(path) == points
    [value] = checkpoint.pending(save(config, 2, pending=[MetricPoint("nan", float("nan"), 1, 2)]))
    assert value.value != value.value
    plain = save(config, 3)
    assert checkpoint.pending(plain) == []
    assert not (Path(plain) / "pending.jsonl").exists()


def test_damaged_pending_values_are_reported(tmp_path: Path) -> None:
    path = save(config_of(tmp_path), 1, pending=[MetricPoint("x", 1.0, 1, 1)])
    (Path(path) / "pending.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"pending\.jsonl: the file is truncated or corrupted"):
        checkpoint.pending(path)


class Clock:
    """A clock that advances only by `sleep`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Writer:
    """Counts calls, and raises StoreError while it is `broken`."""

    def __init__(self) -> None:
        self.broken, self.calls = True, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.broken:
            raise StoreError("the checkpoint cannot be written", "s3://bucket", OSError(errno.ENOSPC, "full"))
        return "path"


def test_a_failed_save_is_logged_once_counted_and_retried_with_backoff(
    logged: Logged,
) -> None:
    clock, write = Clock(), Writer()
    saver = Saver(clock=clock, sleep=clock.sleep)
    assert not saver.overdue()
    attempts_s = []
    for _ in range(40):
        before = write.calls
        assert saver.save(write) is None
        if write.calls > before:
            attempts_s.append(clock.now_s - 100.0)
        clock.now_s += 0.5
    assert attempts_s == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert saver.failures == 5
    write.broken = False
    assert saver.save(write) is None and not saver.overdue()
    clock.now_s += 60.0
    assert saver.overdue()
    assert saver.save(write) == "path"
    assert not saver.overdue()
    messages = [record.getMessage() for record in logged.records]
    assert len(messages) == 2 and "full" in messages[0] and "saved again" in messages[1]
    assert [retry_wait_s(failures) for failures in (1, 2, 7, 2000)] == [1.0, 2.0, 60.0, 60.0]


def test_the_last_save_is_retried_until_its_timeout() -> None:
    clock, write = Clock(), Writer()
    saver = Saver(clock=clock, sleep=clock.sleep, final_timeout_s=120.0)
    with pytest.raises(StoreError, match="full"):
        saver.final(write)
    assert clock.now_s == pytest.approx(220.0)
    assert saver.failures == write.calls == 8

    def repair(seconds: float) -> None:
        clock.sleep(seconds)
        write.broken = False

    write.broken = True
    assert Saver(clock=clock, sleep=repair).final(write) == "path"


def test_user_errors_are_not_retried() -> None:
    def write() -> str:
        raise UserError("Protocol not known: nowhere", where="nowhere://x")

    with pytest.raises(UserError):
        Saver().save(write)
