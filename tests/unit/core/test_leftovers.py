"""What a killed process has left behind is removed by the next one; what lives is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distmeta.core.leftovers import Note, owned_folder, remove_leftovers
from distmeta.core.paths import data_home

_OWNER = """
import os, subprocess, sys, time
from distmeta.core.leftovers import Note, owned_folder
folder, _ = owned_folder("test")
(folder / "file").write_text("x")
server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Note(group=server.pid)
print(folder, server.pid, flush=True)
time.sleep(600)
"""


def notes() -> list[Path]:
    return sorted((data_home() / "owned").glob("*"))


@pytest.mark.thorough
def test_a_killed_process_leaves_nothing_after_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        name, pid = owner.stdout.readline().split()
        folder, server = Path(name), psutil.Process(int(pid))
        mine, note = owned_folder("test")
        assert folder.is_dir() and server.is_running()  # its owner lives
        owner.kill()
    remove_leftovers()
    deadline = time.monotonic() + 20
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not folder.exists()
    assert mine.is_dir()
    assert len(notes()) == 1
    note.remove()
    assert notes() == []


def test_only_folders_of_ours_are_removed(tmp_path: Path) -> None:
    mine, other, linked = tmp_path / "distmeta-x", tmp_path / "other", tmp_path / "distmeta-link"
    for folder in (mine, other):
        folder.mkdir()
    linked.symlink_to(other)
    for folder in (mine, other, linked):
        Note(folder=str(folder))
    for path in notes():
        path.write_text(json.dumps({**json.loads(path.read_text()), "owner": os.getpid(), "since": 1.0}))
    (data_home() / "owned" / "odd.json").write_text("[")
    remove_leftovers()
    assert not mine.exists()
    assert other.is_dir()
    assert linked.is_symlink()


def test_a_home_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "file"))
    folder, note = owned_folder("test")
    assert folder.is_dir()
    note.remove()
    folder.rmdir()
