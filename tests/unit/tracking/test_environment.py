"""Git state, versions, machine and memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from distmeta.tracking import environment


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "file").write_text("one")
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q", "-b", "trunk"], ["add", "file"], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def test_the_state_of_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    state = environment.git_state()
    assert len(state["commit"]) == 40
    assert (state["branch"], state["dirty"]) == ("trunk", "false")
    (repository / "untracked").write_text("two")
    assert environment.git_state()["dirty"] == "false"
    (repository / "file").write_text("two")
    assert environment.git_state()["dirty"] == "true"


def test_outside_a_repository_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert environment.git_state() == {}


def test_without_git_there_is_no_state(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", "")
    assert environment.git_state() == {}


def test_versions_and_machine_are_recorded() -> None:
    assert {"python", "torch", "numpy"} <= environment.versions().keys()
    assert environment.package_version("no-such-package") is None
    assert all(environment.machine().values())


def test_memory_is_in_bytes() -> None:
    metrics = environment.process_metrics()
    assert metrics["driver_peak_bytes"] >= metrics.get("driver_rss_bytes", 0.0) * 0.5 > 1e6
