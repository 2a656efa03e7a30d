"""Starting an MLflow server: refused arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from distmeta.cli.ui import ui
from distmeta.core.errors import UserError
from distmeta.tracking.ui import MlflowServer


def test_a_missing_store_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--uri: there are no runs in sqlite:///mlflow\.db: there is no file .*mlflow"):
        ui()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(UserError, match="--host: 'no such host' is not an address"):
        MlflowServer("sqlite:///mlflow.db", host="no such host")
