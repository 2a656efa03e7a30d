"""The empty store that new SQLite stores are copied from. The tables are made here, not by MLflow."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from distmeta.core.paths import data_home
from distmeta.tracking.empty_store import copy_empty_store, keep_empty_store


def make_store(path: Path, *, runs: int = 0, experiments: int = 1) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY AUTOINCREMENT, location TEXT)")
        store.execute("CREATE TABLE runs (run_uuid TEXT)")
        store.execute("INSERT INTO alembic_version VALUES ('abc')")
        for index in range(experiments):
            store.execute("INSERT INTO experiments VALUES (?, '/elsewhere')", (index,))
        for index in range(runs):
            store.execute("INSERT INTO runs VALUES (?)", (str(index),))
        store.commit()
    return path


def template() -> Path:
    [path] = (data_home() / "mlflow").iterdir()
    return path


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as store:
        return store.execute(f"SELECT * FROM {table}").fetchall()


def test_a_new_store_is_a_copy_of_the_first_without_its_experiment(tmp_path: Path) -> None:
    new = tmp_path / "a folder with 100%" / "new.db"
    new.parent.mkdir()
    assert not copy_empty_store(data_home(), new)
    assert not new.exists()
    keep_empty_store(data_home(), make_store(tmp_path / "first.db"))
    assert copy_empty_store(data_home(), new)
    assert rows(new, "alembic_version") == [("abc",)]
    assert rows(new, "experiments") == []
    assert rows(tmp_path / "first.db", "experiments") == [(0, "/elsewhere")], "the first stays as it is"


@pytest.mark.parametrize("content", [{"runs": 1}, {"experiments": 2}])
def test_a_store_that_is_in_use_is_not_kept(tmp_path: Path, content: dict[str, int]) -> None:
    keep_empty_store(data_home(), make_store(tmp_path / "first.db", **content))
    assert list((data_home() / "mlflow").iterdir()) == []


def test_a_damaged_one_or_one_that_others_can_write_is_not_copied(tmp_path: Path) -> None:
    keep_empty_store(data_home(), make_store(tmp_path / "first.db"))
    os.chmod(template(), 0o666)
    assert not copy_empty_store(data_home(), tmp_path / "new.db")
    os.chmod(template(), 0o600)
    template().write_bytes(b"no database")
    assert not copy_empty_store(data_home(), tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_what_cannot_be_kept_is_not_an_error(tmp_path: Path) -> None:
    data_home().mkdir(parents=True)
    (data_home() / "mlflow").write_bytes(b"a file where the folder would be")
    keep_empty_store(data_home(), make_store(tmp_path / "first.db"))
    keep_empty_store(data_home(), tmp_path / "missing.db")
