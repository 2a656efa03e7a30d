"""Private copies of files to upload, and what is saved when they cannot be sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distmeta.tracking.base import MetricPoint
from distmeta.tracking.sender import Unsent, Upload
from distmeta.tracking.staging import Staging, save_unsent

from ...logged import Logged


@pytest.fixture
def staging() -> Iterator[Staging]:
    staging = Staging()
    yield staging
    staging.remove()


def test_copies_are_masked_and_independent_of_the_original(staging: Staging, tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-3"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text('{"uri": "http://me:secret@host"}')
    (checkpoint / "meta.safetensors").write_bytes(b"http://me:secret@host")
    copy = staging.copy(checkpoint)
    assert copy is not None and copy.name == "step-3"
    (checkpoint / "meta.safetensors").unlink()
    assert json.loads((copy / "state.json").read_text()) == {"uri": "http://me:***@host"}
    assert (copy / "meta.safetensors").read_bytes() == b"http://me:secret@host"
    assert "secret" in (checkpoint / "state.json").read_text()


def test_files_of_one_name_do_not_overwrite_each_other(staging: Staging) -> None:
    first, second = staging.text("1", "log.txt"), staging.text("2", "log.txt")
    assert first is not None and second is not None
    assert (first.read_text(), second.read_text()) == ("1", "2")
    staging.discard([Upload("log", first, lambda: None)])
    assert not first.exists() and second.exists()


def test_a_missing_file_is_logged(staging: Staging, tmp_path: Path, logged: Logged) -> None:
    assert staging.copy(tmp_path / "none.png") is None
    assert "none.png cannot be recorded" in logged.text


def test_what_could_not_be_sent_is_saved(staging: Staging, tmp_path: Path, logged: Logged) -> None:
    save_unsent(Unsent(), tmp_path, "run")
    assert not (tmp_path / "run").exists() and not logged.records
    file = staging.text("content", "log.txt")
    assert file is not None
    save_unsent(Unsent([MetricPoint("loss", 0.5, 17, 3)], [Upload("log", file, lambda: None)]), tmp_path, "run")
    save_unsent(Unsent([MetricPoint("loss", 0.25, 18, 4)]), tmp_path, "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"run_id": "run", "key": "loss", "value": 0.5, "step": 3, "time_ms": 17}
    assert [line["step"] for line in lines] == [3, 4]
    assert (tmp_path / "run" / "0-log.txt").read_text() == "content"
    assert str(tmp_path / "run") in logged.text


def test_an_unusable_folder_for_unsent_values_is_logged(tmp_path: Path, logged: Logged) -> None:
    (tmp_path / "file").touch()
    save_unsent(Unsent([MetricPoint("loss", 0.5, 17, 3)]), tmp_path / "file", "run")
    assert "could not be saved" in logged.text
