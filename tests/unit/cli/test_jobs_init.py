"""`distmeta jobs init`, the job that it writes, and the files that the command line's help names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from distmeta.cli import first_job, main
from distmeta.cli.app import build_app

TEXT = Path(first_job.__file__).read_text()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    """What a command prints to stdout and to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == expect, captured.err
    return captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "file"), [([], "first_job.py"), (["a/my jobs"], "a/my jobs/first_job.py"), (["."], "first_job.py")]
)
def test_it_writes_the_job_and_prints_the_command_that_trains_it(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], file: str
) -> None:
    out, _ = run(capsys, "jobs", "init", *arguments)
    assert (here / file).read_text() == TEXT
    command = f"distmeta train '{file}'" if " " in file else f"distmeta train {file}"
    assert command in out
    written = json.loads(run(capsys, "jobs", "init", *arguments, "--force", "--json")[0])
    assert written == {"job": file, "command": command}


@pytest.mark.thorough
def test_the_job_trains_in_this_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "jobs", "init")
    small = ["train.steps=2", "evaluation.every=0", "evaluation.final_tasks=2", "tracking.kind=none"]
    sets = [part for change in small for part in ("--set", change)]
    result = json.loads(run(capsys, "train", "first_job.py", *sets, "--json")[0])
    assert (result["name"], result["steps"]) == ("first_job", 2)
    assert (here / "runs" / "first_job").is_dir()


def test_it_needs_one_process_and_no_data() -> None:
    config = first_job.config()
    assert (config.runtime.executor, config.tasks.source) == ("local", "glyphs")


def test_a_file_that_exists_is_kept_unless_forced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "first_job.py").write_text("mine")
    out, line = run(capsys, "jobs", "init", expect=2)
    assert (out, line) == (
        "",
        "error: first_job.py: exists already; allowed: another DIR, or --force to overwrite it\n",
    )
    assert (here / "first_job.py").read_text() == "mine"
    run(capsys, "jobs", "init", "--force")
    assert (here / "first_job.py").read_text() == TEXT


def test_a_dangling_link_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "first_job.py").symlink_to(here / "nowhere")
    assert "exists already" in run(capsys, "jobs", "init", expect=2)[1]
    assert not (here / "nowhere").exists()


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(here: Path, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    (here / "file").write_text("x")
    out, line = run(capsys, "jobs", "init", folder, "--force", expect=2)
    assert out == ""
    assert line.startswith(f"error: {folder}: cannot be made: ")
    assert len(line.splitlines()) == 1


def test_a_folder_of_the_files_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "first_job.py").mkdir()
    assert "cannot be written: Is a directory" in run(capsys, "jobs", "init", "--force", expect=2)[1]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


EVERYWHERE = [command for command in commands(typer.main.get_command(build_app())) if command != ("bench",)]
"""All commands but the one that only a checkout has."""


@pytest.mark.parametrize("command", EVERYWHERE, ids=" ".join)
def test_help_names_files_that_every_user_has(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, *command, "--help")[0]
    assert set(re.findall(r"[\w/]+\.py\b", text)) <= {"first_job.py", "FILE.py"}
    assert "runs/" not in text.replace("runs/first_job", "")
