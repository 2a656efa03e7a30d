"""An empty SQLite store for each version of MLflow, to be copied: making one takes dozens of migrations.

It lies in DISTMETA_HOME and is a copy of the first new store, without MLflow's default experiment, whose artifact
location is that of the store it was made in. MLflow makes that experiment where it is missing, and checks the version
of the tables whenever it opens a store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from distmeta.tracking.environment import package_version


def copy_empty_store(home: Path, database: Path) -> bool:
    """Copy the empty store to a new file, or an empty one.

    Args:
        home: DISTMETA_HOME.
        database: The new store.

    Returns:
        Whether it was copied; MLflow makes the tables otherwise.
    """
    template = _template(home)
    try:
        status = template.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False  # others could have put anything into it
        with _open(template, "ro") as source:
            if source.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or not _is_empty(source):
                return False
            with _open(database, "rwc") as target:
                source.backup(target)
    except (OSError, sqlite3.Error):
        return False
    return True


def keep_empty_store(home: Path, database: Path) -> None:
    """Keep a copy of a store that MLflow has just made, if it is still empty; failures are ignored."""
    template = _template(home)
    with contextlib.suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=template.parent, prefix=f".{template.name}-")  # mode 0600
        os.close(descriptor)
        try:
            with _open(database, "ro") as source, _open(Path(name), "rw") as target:
                source.backup(target)
                target.execute("DELETE FROM experiments WHERE experiment_id = 0")
                target.commit()
                complete = _is_empty(target)
            if complete:
                os.replace(name, template)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _template(home: Path) -> Path:
    return home / "mlflow" / f"empty-{package_version('mlflow')}.db"


def _is_empty(store: sqlite3.Connection) -> bool:
    """Whether there are the tables of a store, and neither experiments nor runs."""
    [(migrated,)] = store.execute("SELECT count(*) FROM alembic_version")
    return bool(migrated) and not any(
        store.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in ("experiments", "runs")
    )


@contextlib.contextmanager
def _open(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection
