"""Ray's token file: who can read it can run code on the cluster, so it belongs to its owner alone.

Ray writes a missing token readable by all. It is written here before Ray starts, mode 0600 in a folder of mode 0700.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import stat
from pathlib import Path

from distmeta.core.errors import UserError

_LOG = logging.getLogger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ensure_private_token() -> None:
    """Make sure that there is a token for a cluster that is about to start, and that only its owner can read it.

    A default token that others could read is mended, with a warning. Nothing is done if the token comes from
    RAY_AUTH_TOKEN, or if token authentication is switched off.

    Raises:
        UserError: The file of RAY_AUTH_TOKEN_PATH can be read by others, or the token cannot be written.
    """
    if not _uses_file():
        return
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        check_private_token()
        return
    path = _default_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid == os.getuid():
            path.parent.chmod(0o700)
        if not path.exists() or not path.stat().st_size:
            _write(path)
        elif path.stat().st_mode & _OTHERS:
            path.chmod(0o600)
            _LOG.warning("ray: others could read %s; now only its owner can", path)
    except OSError as error:
        raise UserError(
            f"Ray's token cannot be kept private: {error.strerror}", where=str(path), allowed="a writable home folder"
        ) from error


def check_private_token() -> None:
    """Refuse a token file that others can read.

    Raises:
        UserError: With the command that mends it.
    """
    if not _uses_file():
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _default_path()).expanduser()
    try:
        readable = bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return  # there is no token: Ray says so where one is needed
    if readable:
        raise UserError("others can read Ray's token", where=str(path), allowed=f"chmod 600 {shlex.quote(str(path))}")


def _uses_file() -> bool:
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    return mode == "token" and not os.environ.get("RAY_AUTH_TOKEN")


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _write(path: Path) -> None:
    """Write a new token; the file never exists with a wider mode or half a token."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    os.replace(scratch, path)
