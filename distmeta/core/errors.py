"""Errors that a user can fix. Messages are one line: `where: what is wrong; allowed: ...`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_PART = 1000


class DistmetaError(Exception):
    """Base of the errors that distmeta raises on purpose."""


class UserError(DistmetaError):
    """Bad input. The command line prints it as one line and exits with code 2.

    Args:
        what: What is wrong, with the offending value.
        where: A field (`outer.lr`), a file or an option.
        allowed: What would be accepted instead.
    """

    def __init__(self, what: str, *, where: str | None = None, allowed: str | None = None) -> None:
        self.what, self.where, self.allowed = what, where, allowed
        parts = [f"{where}: {what}" if where else what]
        if allowed:
            parts.append(f"allowed: {allowed}")
        super().__init__("; ".join(_shorten(" ".join(part.split())) for part in parts))


def nearest(name: str, valid: Iterable[str]) -> str:
    """List the valid names, preceded by the one closest to `name`: `did you mean 'x'? (x, y, z)`."""
    names = sorted(valid)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names)
    return f"did you mean '{matches[0]}'? ({listed})" if matches else listed


class WorkerError(DistmetaError):
    """A shard could not be computed: the program raised, or its workers died repeatedly."""


class PeerError(WorkerError):
    """A rank of a worker cannot go on without another one, which is lost or does not answer."""


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_PART else f"{text[:_LONGEST_PART]}..."
