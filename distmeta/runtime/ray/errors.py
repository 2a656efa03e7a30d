"""What errors of Ray mean."""

from __future__ import annotations

import re

from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.runtime.policy.decisions import Failure, FailureKind, surfaced

_NODE_LOST = re.compile(r"\bnode (has )?died|\bnode .* marked dead", re.IGNORECASE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def failure_of(worker: int, error: RayError) -> Failure:
    """What an error of Ray means."""
    text = plain(error)
    lines = text.splitlines() or [type(error).__name__]
    kind = _kind(error, text)
    detail = lines[-1] if isinstance(error, RayTaskError) else f"its process ended ({type(error).__name__})"
    if kind == "object_lost":
        detail = f"an object was lost ({type(error).__name__})"
    return Failure(kind, worker, detail.strip(), text)


def _kind(error: RayError, text: str) -> FailureKind:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (ObjectLostError, GetTimeoutError)):
        return "object_lost"
    if isinstance(cause, OutOfMemoryError) or "running low on memory" in text:
        return "out_of_memory"
    if isinstance(error, RayTaskError):
        return "user_error" if isinstance(cause, UserError) else "program_raised"
    return "node_lost" if isinstance(cause, NodeDiedError) or _NODE_LOST.search(text) else "worker_died"


def final(reason: str, error: RayError | None, place: str) -> DistmetaError:
    """The error that ends a run for `reason`: that of the program itself, where there is one."""
    if isinstance(error, RayTaskError):
        return surfaced(error.cause, place, plain(error))
    return WorkerError(reason)


def plain(error: RayError) -> str:
    """Its text, without the colours that Ray puts in."""
    return _COLOURS.sub("", str(error)).strip()
