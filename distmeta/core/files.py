"""Read and write the files that a user names: bounded in size, never waiting for a pipe, errors as one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from distmeta.core.errors import UserError


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file.

    Args:
        path: The file.
        max_bytes: Largest size to read.

    Raises:
        UserError: It does not exist, is a folder, a pipe or a device, is too large, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "is a folder" if stat.S_ISDIR(status.st_mode) else "is a pipe or a device"
            raise UserError(what, where=str(path), allowed="a file")
        if status.st_size > max_bytes:
            raise UserError(f"has {status.st_size} bytes", where=str(path), allowed=f"at most {max_bytes}")
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(max_bytes)
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        raise UserError(f"cannot be read: {reason(error)}", where=str(path)) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file, replacing its content.

    Raises:
        UserError: It is a folder, a pipe that nothing reads, its folder does not exist, or it cannot be written.
    """
    try:
        with open(path, "wb", opener=_open_at_once) as file:
            os.set_blocking(file.fileno(), True)
            file.write(content)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be written: {reason(error)}", where=str(path)) from error


def reason(error: Exception) -> str:
    """Why a system call failed, without the path and the number of the error."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; unlike `open`, do not wait for the other end of a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)
