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
        # Without O_NONBLOCK, opening a named pipe waits until something writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                what = "is a folder" if stat.S_ISDIR(status.st_mode) else "is a pipe or a device"
                raise UserError(what, where=str(path), allowed="a file")
            if status.st_size > max_bytes:
                raise UserError(f"has {status.st_size} bytes", where=str(path), allowed=f"at most {max_bytes}")
            return file.read(max_bytes)
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        raise UserError(f"cannot be read: {reason(error)}", where=str(path)) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file, replacing its content.

    Raises:
        UserError: It is a folder, a pipe that nothing reads, its folder does not exist, or it cannot be written.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits until something reads from it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        os.set_blocking(descriptor, True)
        with open(descriptor, "wb") as file:
            file.write(content)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be written: {reason(error)}", where=str(path)) from error


def reason(error: Exception) -> str:
    """Why a system call failed, without the path and the number of the error."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
