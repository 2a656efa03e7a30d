"""See which files a process changes and where it connects, by Python's audit events."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_WRITES = {
    "open": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
"""Audit events that change files, and how many of their arguments are paths."""
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """What a process does while one input is run.

    Attributes:
        allowed: Folders that may be changed.
        writes: Paths outside of them that were changed or opened for writing.
        connections: Addresses that were connected to, or looked up.
        signals: Signals that were sent to processes. None is delivered.
    """

    allowed: tuple[str, ...]
    writes: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            self.connections.append(f"{event} {arguments[1:]!r}")
            raise OSError(101, "Network is unreachable")
        if event in ("os.kill", "os.killpg") and arguments[1] != 0:
            self.signals.append(f"{event} {arguments!r}")
            raise PermissionError(1, "Operation not permitted")
        if event not in _WRITES or (event == "open" and not arguments[2] & _WRITE_FLAGS):
            return
        if event != "open" and any(isinstance(each, int) and each >= 0 for each in arguments[-1:]):
            return  # relative to an open folder, as shutil.rmtree works: what it began with has been checked
        for path in arguments[: _WRITES[event]]:
            if isinstance(path, str | bytes | os.PathLike) and not self._may_change(os.fsdecode(path)):
                self.writes.append(f"{event} {os.fsdecode(path)}")

    def _may_change(self, path: str) -> bool:
        folder, name = os.path.split(os.path.abspath(path))
        real = os.path.join(os.path.realpath(folder), name)
        allowed = (*self.allowed, f"{os.devnull}/", f"/proc/{os.getpid()}/mem/")  # nothing can be made there
        return "__pycache__" in real or any(f"{real}/".startswith(each) for each in allowed)


_watch: Watch | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is not None:
        _watch.see(event, arguments)


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    global _watch
    _watch = watch
    try:
        yield
    finally:
        _watch = None
