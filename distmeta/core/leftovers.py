"""Temporary folders and server processes that outlive a killed process are removed by the next one of the same user.

Each is noted in `$DISTMETA_HOME/owned` with the process that owns it, before it can be left behind. A note whose owner
is gone is a leftover. Where the notes cannot be written, everything works, and leftovers stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import psutil

from distmeta.core.paths import data_home

PREFIX = "distmeta-"


class Note:
    """A note of something that this process owns; `remove` it with the thing itself.

    Args:
        thing: `{"folder": path}`, or `{"group": pid}` for a process group and its leader.
    """

    def __init__(self, **thing: Any) -> None:
        self._path = _notes() / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        content = {**thing, "owner": os.getpid(), "since": _started(os.getpid())}
        if "group" in thing:
            content["group_since"] = _started(thing["group"])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.write_text(json.dumps(content), encoding="utf-8")

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def owned_folder(name: str) -> tuple[Path, Note]:
    """A new temporary folder, and its note. Leftovers of earlier processes are removed first."""
    remove_leftovers()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{name}-{secrets.token_hex(8)}"
    note = Note(folder=str(folder))
    folder.mkdir(mode=0o700)
    return folder, note


def remove_leftovers() -> None:
    """Remove what processes of this user that are gone have left behind."""
    for path in _notes().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, psutil.Error):
            note = json.loads(path.read_text(encoding="utf-8"))
            if _started(note["owner"]) == note["since"]:
                continue
            if "folder" in note:
                _remove_folder(Path(note["folder"]))
            if "group" in note and note["group_since"] is not None and _started(note["group"]) == note["group_since"]:
                os.killpg(note["group"], signal.SIGKILL)
            path.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder if it is one that `owned_folder` makes."""
    is_ours = folder.name.startswith(PREFIX) and folder.is_dir() and not folder.is_symlink()
    if is_ours and folder.stat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)


def _notes() -> Path:
    return data_home() / "owned"


def _started(pid: int) -> float | None:
    """When a process was started; None if there is none. Tells it from a later one with its number."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
