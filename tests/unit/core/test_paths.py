"""Folders of runs: on a laptop, with DISTMETA_RUNS set and in a Ray job."""

from __future__ import annotations

import pytest

from distmeta.checkpoint.reading import run_folder
from distmeta.core.paths import JOB_VARIABLE, data_home, in_ray_job, runs_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs", "/srv/runs"),
        ("runs/", "/srv/runs"),
        ("runs/old", "/srv/runs/old"),
        ("old/runs", "/srv/runs/old/runs"),
        (".", "/srv/runs"),
        ("/absolute/runs", "/absolute/runs"),
        ("~/runs", "~/runs"),
        ("s3://bucket/runs", "s3://bucket/runs"),
    ],
)
def test_relative_paths_are_resolved_in_the_folder_of_runs(
    path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_path(path) == path
    monkeypatch.setenv("DISTMETA_RUNS", "/srv/runs/")
    assert runs_path(path) == expected


def test_the_folder_of_runs_may_be_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_RUNS", "memory://bucket/runs")
    assert run_folder("runs", "waves").url == "memory:///bucket/runs/waves"


def test_in_a_ray_job_runs_are_stored_outside_the_working_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not in_ray_job()
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    assert in_ray_job()
    assert runs_path("runs") == str(data_home() / "runs")
    monkeypatch.setenv("DISTMETA_RUNS", "/srv/runs")
    assert runs_path("runs") == "/srv/runs"
