"""Tracking URIs: which one applies, where its artifacts lie, and how to print it without its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distmeta.core.errors import UserError
from distmeta.core.paths import data_home, in_ray_job

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)")
_SCHEME = r"(?P<scheme>(?<![\w+.-])[A-Za-z][\w+.-]*://)"
_PASSWORD = re.compile(_SCHEME + r"(?P<user>[^:/?#@\s]*):[^\s]*@")
_TOKEN = re.compile(r"(?P<scheme>https?://)[^:/?#@\s]+@")
_NAMES = r"password|passwd|pwd|token|secret|key|credential|signature"
_QUERY = re.compile(rf"(?P<name>[?&;](?:[\w.-]*(?:{_NAMES})[\w.-]*|sig)=)[^&;\s'\"]*", re.IGNORECASE)
_VARIABLE = re.compile(
    r"(?P<name>\b[A-Z][A-Z0-9_]*(?:PASSWORD|SECRET|TOKEN|(?:ACCESS|API|PRIVATE|ACCOUNT)_?KEY)[A-Z0-9_]*['\"]?\s*[=:]\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)"
)
_HEADER = re.compile(r"(?P<name>authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\"]+", re.IGNORECASE)


def tracking_uri(configured: str | None) -> str:
    """The URI of the configuration, else MLFLOW_TRACKING_URI, else a SQLite file.

    It lies in the working folder. In a Ray job, whose working folder does not last, it lies in DISTMETA_HOME.
    """
    default = f"sqlite:///{data_home().absolute() / 'mlflow.db'}" if in_ray_job() else DEFAULT_URI
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or default


def unsent_folder() -> Path:
    """Where runs leave what their store did not take: beside the default store."""
    return (data_home().absolute() if in_ray_job() else Path()) / "mlflow-unsent"


def mask_uri(text: str) -> str:
    """Replace passwords, tokens and keys in `text` by `***`: of every URI, and of variables and headers like them.

    When in doubt it hides too much: a password may hold any character, so all between the user's name and the last `@`
    goes.
    """
    text = _PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
    text = _TOKEN.sub(r"\g<scheme>***@", text)
    text = _HEADER.sub(r"\g<name>***", _VARIABLE.sub(r"\g<name>***", text))
    return _QUERY.sub(r"\g<name>***", text)


def inner_path(path: str) -> str:
    """A path within a run's artifacts, as it is.

    Raises:
        UserError: It leads elsewhere.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or ":" in path or "\0" in path:
        raise UserError(f"'{path}' is not a name of an artifact", allowed="names with / between them, none of them ..")
    return path


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
