"""Rows of bad input for the command line, and what is expected of each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from distmeta.cli import main

STARTING = re.compile(
    r"reading .*|loading torch and .*"
    r"|[\w.-]+: (loading torch|starting Ray|connecting to Ray at .*|opening .*|waiting for .*)"
)
"""Lines that say what takes time at the start, before a fault is noticed."""
Arguments = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Row:
    """One bad input.

    Attributes:
        name: What is bad.
        arguments: Writes the input files below a folder, and gives the arguments of the command.
        expected: What the line must say: the fault, its place, what is allowed.
    """

    name: str
    arguments: Arguments
    expected: tuple[str, ...]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    """All files but the locks of runs, which stay when a run ends."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check(row: Row, stdout: str, stderr: str) -> None:
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ")
    for part in row.expected:
        assert part in lines[0]
    assert "Traceback" not in stderr + stdout
    for line in stdout.splitlines():
        assert STARTING.fullmatch(line), stdout


def judge(row: Row, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = row.arguments(here)
    before = files_below(here)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    check(row, captured.out, captured.err)
    assert ended.value.code == 2
    assert files_below(here) == before
