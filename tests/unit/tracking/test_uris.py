from __future__ import annotations

from pathlib import Path

import pytest

from distmeta.tracking.uris import artifact_folder, is_server, mask_uri, sqlite_file, tracking_uri


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
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("a plain text, 12:30, me@host", "a plain text, 12:30, me@host"),
    ],
)
def test_passwords_and_tokens_are_masked(text: str, shown: str) -> None:
    assert mask_uri(text) == shown


def test_the_configured_uri_wins_over_the_environment_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(None) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(None) == "http://server:5000"
    assert tracking_uri("sqlite:///mine.db") == "sqlite:///mine.db"


def test_a_sqlite_store_keeps_its_artifacts_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = sqlite_file("sqlite:///sub/mlflow.db")
    assert database == tmp_path / "sub" / "mlflow.db"
    assert artifact_folder(database) == tmp_path / "sub" / "mlartifacts"
    assert sqlite_file(f"sqlite:///{tmp_path}/a.db?timeout=3") == tmp_path / "a.db"
    assert sqlite_file("postgresql://host/runs") is None
    assert is_server("https://host") and not is_server("sqlite:///a.db")
