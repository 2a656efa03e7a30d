"""`distmeta ui`: look at the runs in the browser."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from types import FrameType
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from distmeta.cli.output import JsonOption, print_json
from distmeta.core.errors import UserError
from distmeta.core.signals import Stopped
from distmeta.tracking.ui import MlflowServer
from distmeta.tracking.uris import is_server, mask_uri, sqlite_file, tracking_uri

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_CHECKED_BYTES = 256 << 20  # checking all pages of a larger database takes seconds


def ui(
    uri: Annotated[
        str | None,
        typer.Option(
            help="The MLflow store (default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db in the working folder)."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on. The server asks for no password: mind who can reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Open the recorded runs in the browser: serve the MLflow store of this machine until Ctrl-C."""
    store = uri or tracking_uri(None)
    if not host.strip():
        raise UserError("is empty, which would be every interface", where="--host", allowed="127.0.0.1, 0.0.0.0 ...")
    if not is_server(store):
        _require_database(store)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with MlflowServer(store, host, port) as server:
            if as_json:
                print_json({"address": server.address, "uri": mask_uri(store)})
            else:
                print(f"{mask_uri(store)} is served at {server.page}  (Ctrl-C ends it)", flush=True)
            server.wait()
    except (KeyboardInterrupt, Stopped):
        return


def _require_database(store: str) -> None:
    """Check that a store is a database that can be served: MLflow's server takes long to say so, or serves nothing.

    Raises:
        UserError: It is not.
    """
    try:
        scheme = urlsplit(store.encode().decode()).scheme.partition("+")[0]
    except ValueError:  # not UTF-8, or brackets that are not those of an address
        scheme = ""
    database = sqlite_file(store)
    if scheme not in _SCHEMES or (scheme == "sqlite" and (database is None or database.name == ":memory:")):
        allowed = "sqlite:///FILE, or the URL of another database"
        raise UserError(f"'{mask_uri(store)}' is not a store with runs", where="--uri", allowed=allowed)
    if database is not None:
        _require_runs(database, store)
    _require_answer(store)


def _require_runs(database: Path, store: str) -> None:
    """Check that a file is a sound SQLite database of MLflow, or empty."""
    allowed = "the store of a run that has been started"
    if not os.path.isfile(database):
        what = f"there are no runs in {mask_uri(store)}: there is no file {database}"
        raise UserError(what, where="--uri", allowed=allowed)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            small = database.stat().st_size <= _CHECKED_BYTES
            state = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if small else "ok"
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return  # a run writes to it
        raise UserError(f"{database} cannot be read: {error}", where="--uri", allowed=allowed) from error
    if state != "ok":
        raise UserError(f"{database} is damaged: {state}", where="--uri", allowed=allowed)
    if tables and "experiments" not in tables:
        raise UserError(f"{database} is not a database of MLflow", where="--uri", allowed=allowed)


def _require_answer(store: str) -> None:
    """Check that a database can be opened: MLflow's server says so in many lines, or waits for its host."""
    from distmeta.tracking.store import check_database, store_errors, unusable

    try:
        check_database(store)
    except store_errors() as error:
        allowed = "a database that answers and whose Python driver is installed, such as sqlite:///FILE"
        raise UserError(unusable(store, error), where="--uri", allowed=allowed) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
