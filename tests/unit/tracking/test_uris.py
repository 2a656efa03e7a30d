"""Tracking URIs: defaults, artifact folders, and masked secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distmeta.core.errors import UserError
from distmeta.tracking.uris import (
    absolute_uri,
    artifact_folder,
    inner_path,
    is_server,
    mask_uri,
    sqlite_file,
    tracking_uri,
    unsent_folder,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5432/runs", "postgresql://me:***@host:5432/runs"),
        ("mysql+pymysql://me:s/e@c:ret@host/runs", "mysql+pymysql://me:***@host/runs"),
        ("https://:secret@host", "https://:***@host"),
        ("https://secret-token@host/path", "https://***@host/path"),
        ("http://host/?user=me&password=secret&x=1", "http://host/?user=me&password=***&x=1"),
        ("http://host/?Api_Token=secret", "http://host/?Api_Token=***"),
        ("could not open postgresql://me:secret@host/x now", "could not open postgresql://me:***@host/x now"),
        ("s3://KEY:SECRET@bucket/runs", "s3://KEY:***@bucket/runs"),
        (
            "http://host/a?X-Amz-Signature=se&X-Amz-Security-Token=cret",
            "http://host/a?X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("https://x.blob.core.windows.net/c?sv=2024&sig=secret", "https://x.blob.core.windows.net/c?sv=2024&sig=***"),
        ('{"uri": "http://me:secret@host"}', '{"uri": "http://me:***@host"}'),
        ("AWS_SECRET_ACCESS_KEY=secret python", "AWS_SECRET_ACCESS_KEY=*** python"),
        ("{'MLFLOW_TRACKING_PASSWORD': 'a secret', 'X': '1'}", "{'MLFLOW_TRACKING_PASSWORD': ***, 'X': '1'}"),
        ("RAY_AUTH_TOKEN: secret", "RAY_AUTH_TOKEN: ***"),
        ("{'Authorization': 'Bearer secret'}", "{'Authorization': 'Bearer ***'}"),
        ("authorization: secret", "authorization: ***"),
        ("the token = 5 and the key: x", "the token = 5 and the key: x"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("a plain text, 12:30, me@host", "a plain text, 12:30, me@host"),
    ],
)
def test_passwords_and_tokens_are_masked(text: str, shown: str) -> None:
    assert mask_uri(text) == shown


def test_the_configured_uri_overrides_the_environment_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(None) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(None) == "http://server:5000"
    assert tracking_uri("sqlite:///mine.db") == "sqlite:///mine.db"


def test_in_a_ray_job_the_default_store_is_outside_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unsent_folder() == Path("mlflow-unsent")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path))
    assert sqlite_file(tracking_uri(None)) == tmp_path / "mlflow.db"
    assert unsent_folder() == tmp_path / "mlflow-unsent"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(None) == "http://server:5000"


@pytest.mark.parametrize("path", ["", "..", "../x", "a/../x", "/x", "a//x", "a/./x", "a/", "C:x", "a\\..\\x", "a\0"])
def test_artifact_paths_stay_in_the_artifacts_of_the_run(path: str) -> None:
    assert inner_path("a/b.c/..d") == "a/b.c/..d"
    with pytest.raises(UserError, match="is not an artifact path"):
        inner_path(path)


def test_artifacts_of_a_sqlite_store_are_beside_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = sqlite_file("sqlite:///sub/mlflow.db")
    assert database == tmp_path / "sub" / "mlflow.db"
    assert artifact_folder(database) == tmp_path / "sub" / "mlartifacts"
    assert sqlite_file(f"sqlite:///{tmp_path}/a.db?timeout=3") == tmp_path / "a.db"
    assert sqlite_file("postgresql://host/runs") is None
    assert is_server("https://host") and not is_server("sqlite:///a.db")


@pytest.mark.parametrize(
    ("configured", "file", "variable", "line"),
    [
        ("http://[::1", None, None, "tracking.uri: cannot be parsed as a URI; allowed: http://HOST:PORT"),
        (None, None, "http://me:secret@[::1", "MLFLOW_TRACKING_URI: cannot be parsed as a URI; allowed: http://HOST"),
        (None, None, "sqlite:///\udcff", "MLFLOW_TRACKING_URI: cannot be parsed as a URI"),
        ("sqlite://", None, None, "tracking.uri: 'sqlite://' is a database in memory; allowed: a file: sqlite:///FILE"),
        ("sqlite:///:memory:", None, None, "tracking.uri: 'sqlite:///:memory:' is a database in memory"),
        (None, "~nouser/uri", None, "tracking.uri_file: the home folder of '~nouser' is unknown"),
        (None, "pipe", None, "is a pipe or a device"),
        (None, "loop", None, "tracking.uri_file: loop cannot be read"),
    ],
)
def test_uris_that_cannot_be_used(
    configured: str | None,
    file: str | None,
    variable: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe", 0o600)
    Path("loop").symlink_to("loop")
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    with pytest.raises(UserError) as caught:
        tracking_uri(configured, file)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/../b.db?timeout=3", "sqlite:///{here}/a/../b.db?timeout=3"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://me@host/runs", "postgresql://me@host/runs"),
    ],
)
def test_paths_of_sqlite_files_are_made_absolute(
    uri: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri(uri) == absolute.format(here=tmp_path)
