"""Tracking URIs: resolve the default, locate artifacts, and mask secrets."""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path
from urllib.parse import urlsplit

from distmeta.core.errors import UserError
from distmeta.core.files import read_file
from distmeta.core.paths import data_home, expand_user, in_ray_job

DEFAULT_URI = "sqlite:///mlflow.db"
_MAX_URI_BYTES = 65536
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


def tracking_uri(configured: str | None, file: str | None = None) -> str:
    """The configured URI, or the one in a file, or MLFLOW_TRACKING_URI, or a SQLite file.

    The SQLite file is in the working folder; in a Ray job, whose working folder is deleted, it is in DISTMETA_HOME.

    Raises:
        UserError: The file cannot be read, others may read it, the configured URI is one whose password is masked, or
            the URI cannot be parsed.
    """
    if file is not None:
        return _parsed(_private_text(expand_user(file, where="tracking.uri_file")), "tracking.uri_file")
    if configured is not None and ":***@" in configured:
        raise UserError(
            f"the password of {configured} is masked",
            where="tracking.uri",
            allowed="the whole URI in MLFLOW_TRACKING_URI or in a tracking.uri_file",
        )
    default = f"sqlite:///{data_home().absolute() / 'mlflow.db'}" if in_ray_job() else DEFAULT_URI
    if configured:
        return _parsed(configured, "tracking.uri")
    return _parsed(os.environ.get("MLFLOW_TRACKING_URI") or default, "MLFLOW_TRACKING_URI")


def _parsed(uri: str, where: str) -> str:
    try:
        urlsplit(uri.encode().decode())
    except ValueError as error:  # brackets that are not those of an address, or bytes that are not UTF-8
        allowed = "http://HOST:PORT, or a database such as sqlite:///FILE"
        raise UserError("cannot be parsed as a URI", where=where, allowed=allowed) from error
    file = sqlite_file(uri)
    if uri.startswith("sqlite") and (file is None or file.name == ":memory:"):
        raise UserError(f"'{uri}' is a database in memory", where=where, allowed="a file: sqlite:///FILE")
    return uri


def _private_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UserError(
                f"others may read {path}",
                where="tracking.uri_file",
                allowed=f"mode 0600: chmod 600 {shlex.quote(str(path))}",
            )
        return read_file(path, _MAX_URI_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}", where="tracking.uri_file", allowed="a file of yours"
        ) from error


def unsent_folder() -> Path:
    """Folder for values and artifacts that could not be sent to the store: beside the default store."""
    return (data_home().absolute() if in_ray_job() else Path()) / "mlflow-unsent"


def mask_uri(text: str) -> str:
    """Replace passwords, tokens and keys in `text` by `***`: in URIs, environment variables and HTTP headers.

    Masks too much rather than too little: a password may contain any character, so everything between the user name and
    the last `@` is masked.
    """
    text = _PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
    text = _TOKEN.sub(r"\g<scheme>***@", text)
    text = _HEADER.sub(r"\g<name>***", _VARIABLE.sub(r"\g<name>***", text))
    return _QUERY.sub(r"\g<name>***", text)


def inner_path(path: str) -> str:
    """Check a path within the artifacts of a run, and return it unchanged.

    Raises:
        UserError: The path leaves the artifacts, or is not canonical.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or ":" in path or "\0" in path:
        raise UserError(f"'{path}' is not an artifact path", allowed="a relative path without empty, '.' or '..' parts")
    return path


def is_server(uri: str) -> bool:
    """Whether `uri` is an MLflow server, rather than a database that this process opens."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """Absolute path of a SQLite store's file; None for other stores."""
    match = _SQLITE.match(uri)
    return Path(match["path"]).absolute() if match else None


def absolute_uri(uri: str) -> str:
    """The URI with the path of a SQLite file made absolute: another process may have another working folder."""
    match = _SQLITE.match(uri)
    if match is None:
        return uri
    start, end = match.span("path")
    return f"{uri[:start]}{Path(match['path']).absolute()}{uri[end:]}"


def artifact_folder(database: Path) -> Path:
    """Artifact folder of a SQLite store: beside the database file."""
    return database.parent / "mlartifacts"
