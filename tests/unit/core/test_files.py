"""Files that a user names: pipes, folders, sizes, and errors as one line."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from distmeta.core.errors import UserError
from distmeta.core.files import read_file, write_file
from distmeta.core.paths import data_home, expand_user, runs_path


def test_read_and_write(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"12345")
    write_file(tmp_path / "a", b"123")
    assert read_file(tmp_path / "a", 3) == b"123"
    with pytest.raises(UserError, match="/a: has 3 bytes; allowed: at most 2"):
        read_file(tmp_path / "a", 2)


@pytest.mark.parametrize(
    ("name", "reading", "writing"),
    [
        ("folder", "is a folder; allowed: a file", "cannot be written: Is a directory"),
        ("pipe", "is a pipe or a device; allowed: a file", "cannot be written: No such device or address"),
        ("nowhere/file", "cannot be read: No such file", "cannot be written: No such file or directory"),
        ("file/below", "cannot be read: Not a directory", "cannot be written: Not a directory"),
        ("loop", "cannot be read: Too many levels", "cannot be written: Too many levels"),
        ("dangling", "cannot be read: No such file", "cannot be written: No such file or directory"),
        ("n" * 300, "cannot be read: File name too long", "cannot be written: File name too long"),
        ("a\0b", "cannot be read: embedded null", "cannot be written: embedded null"),
    ],
)
def test_what_is_no_file(tmp_path: Path, name: str, reading: str, writing: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere/file")
    with pytest.raises(UserError, match=reading):
        read_file(tmp_path / name, 100)
    with pytest.raises(UserError, match=writing):
        write_file(tmp_path / name, b"x")


def test_a_pipe_with_a_reader_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    content = b"x" * 1_000_000  # more than a pipe holds
    while True:
        try:
            write_file(tmp_path / "pipe", content)
            break
        except UserError:  # the thread has not opened it yet
            continue
    reader.join(10)
    assert received == [content]


def test_an_unknown_user_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="~nouser/x: the home folder of '~nouser' is unknown; allowed: a path"):
        expand_user("~nouser/x")
    monkeypatch.setenv("DISTMETA_HOME", "~nouser")
    with pytest.raises(UserError, match="DISTMETA_HOME: the home folder of '~nouser' is unknown"):
        data_home()
    monkeypatch.setenv("DISTMETA_RUNS", "~nouser/runs")
    with pytest.raises(UserError, match="DISTMETA_RUNS: the home folder of '~nouser' is unknown"):
        runs_path("runs")


def test_a_long_message_is_cut() -> None:
    error = UserError("x" * 100_000, where="y" * 100_000, allowed="z" * 100_000)
    assert len(str(error)) < 5_000
    assert len(error.what) == 100_000
