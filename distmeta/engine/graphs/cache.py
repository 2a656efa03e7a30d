"""The folder that keeps compiled graphs and measured strategy choices between runs.

It is `$DISTMETA_HOME/engine` (default `~/.cache/distmeta/engine`). Native code is loaded from it, so it must belong to
the user and be writable by nobody else.
"""

from __future__ import annotations

import os
import platform
import stat
from functools import cache
from pathlib import Path

import torch

from distmeta import __version__
from distmeta.core.errors import UserError
from distmeta.core.paths import data_home

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """The folder, created if it does not exist.

    Raises:
        UserError: Others may write to it, or replace it; or it cannot be created.
    """
    home = data_home()
    folder = home / "engine"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(folder)
        if home.stat().st_mode & _OTHERS_WRITE and not home.stat().st_mode & stat.S_ISVTX:
            _refuse(home)
    except OSError as error:
        raise UserError(
            f"compiled code cannot be stored: {error.strerror}", where=str(folder), allowed="a writable DISTMETA_HOME"
        ) from error
    return folder


def use_private_compiler_caches() -> None:
    """Let torch's compilers keep their own libraries in the folder, too.

    By default they are in a folder of the temporary directory whose name anyone can guess, and take beforehand.

    Raises:
        UserError: See `cache_folder`.
    """
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        folder = cache_folder() / name
        folder.mkdir(exist_ok=True, mode=0o700)
        _check_private(folder)
        os.environ[variable] = str(folder)


def _check_private(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & _OTHERS_WRITE or not stat.S_ISDIR(status.st_mode):
        _refuse(folder)


def _refuse(folder: Path) -> None:
    raise UserError(
        "others may write to this folder, and native code is loaded from it",
        where=str(folder),
        allowed="a folder of your own with mode 0700, or another DISTMETA_HOME",
    )


@cache
def environment() -> tuple[str, ...]:
    """What compiled code and its speed depend on besides the graph: part of every cache key."""
    return (
        __version__,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        _cpu_field("model name"),
        _cpu_field("flags"),
    )


def _cpu_field(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo; without that file, Python's name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
