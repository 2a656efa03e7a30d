"""What the engine keeps between runs on a machine: compiled graphs and measured choices.

The folder is `$DISTMETA_HOME/engine` (default `~/.cache/distmeta/engine`). Native code is loaded from it, so it must
belong to the user and be writable by nobody else.
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


def cache_folder() -> Path:
    """The folder, made if it is not there.

    Raises:
        UserError: Somebody else may write to it.
    """
    folder = data_home() / "engine"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            "others may write to this folder, and native code is loaded from it",
            where=str(folder),
            allowed="a folder of your own with mode 0700, or another DISTMETA_HOME",
        )
    return folder


@cache
def environment() -> tuple[str, ...]:
    """What decides about the code that is made on this machine, and about its speed."""
    return (
        __version__,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        _cpu("model name"),
        _cpu("flags"),
    )


def _cpu(field: str) -> str:
    """A field of the first processor, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
