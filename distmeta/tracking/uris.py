"""Tracking URIs: which one applies, where its artifacts lie, and how to print it without its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)")
_PASSWORD = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:/?#@\s]*):[^\s]*@")
_TOKEN = re.compile(r"(?P<scheme>https?://)[^:/?#@\s]+@")
_QUERY = re.compile(r"(?P<name>[?&](?:\w*(?:password|passwd|token|secret|key)\w*)=)[^&\s]*", re.IGNORECASE)


def tracking_uri(configured: str | None) -> str:
    """The URI of the configuration, else MLFLOW_TRACKING_URI, else a SQLite file in the working folder."""
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def mask_uri(text: str) -> str:
    """Replace passwords and tokens of every URI in `text` by `***`.

    When in doubt it hides too much: a password may hold any character, so all between the user's name and the last `@`
    goes.
    """
    text = _PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
    text = _TOKEN.sub(r"\g<scheme>***@", text)
    return _QUERY.sub(r"\g<name>***", text)


def is_server(uri: str) -> bool:
    """Whether an MLflow server is behind `uri`, rather than a database that this process opens."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of a SQLite store's file; None for other stores."""
    match = _SQLITE.match(uri)
    return Path(match["path"]).absolute() if match else None


def artifact_folder(database: Path) -> Path:
    """Where runs of a SQLite store keep their artifacts: beside the database file."""
    return database.parent / "mlartifacts"
