"""Ray's errors as failures, and the error that ends a run."""

from __future__ import annotations

import re

from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from distmeta.core.errors import DistmetaError, PeerError, UserError, WorkerError
from distmeta.runtime.policy.decisions import Failure, FailureKind, driver_error

_NODE_LOST = re.compile(r"\bnode (has )?died|\bnode .* marked dead", re.IGNORECASE)
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def failure_of(worker: int, error: RayError) -> Failure:
    """Classify an error that Ray raised for a call of `worker`."""
    text = plain_text(error)
    lines = text.splitlines() or [type(error).__name__]
    kind = _kind(error, text)
    detail = lines[-1] if isinstance(error, RayTaskError) else f"its process died ({type(error).__name__})"
    if kind == "object_lost":
        detail = f"an object was lost ({type(error).__name__})"
    return Failure(kind, worker, detail.strip(), text)


def _kind(error: RayError, text: str) -> FailureKind:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (ObjectLostError, GetTimeoutError)):
        return "object_lost"
    if isinstance(cause, OutOfMemoryError) or "running low on memory" in text:
        return "out_of_memory"
    if isinstance(cause, PeerError):
        return "peer_lost"
    if isinstance(error, RayTaskError):
        return "user_error" if isinstance(cause, UserError) else "program_raised"
    return "node_lost" if isinstance(cause, NodeDiedError) or _NODE_LOST.search(text) else "worker_died"


def abort_error(reason: str, error: RayError | None, location: str) -> DistmetaError:
    """Make the error that ends a run for `reason`: the program's own exception, if there is one."""
    if isinstance(error, RayTaskError):
        return driver_error(error.cause, location, plain_text(error))
    return WorkerError(reason)


def task_error(failure: Failure, cause: Exception) -> RayTaskError:
    """What Ray raises where a program raised `cause`, rebuilt from what another process has told."""
    return RayTaskError("run", failure.traceback, cause)  # type: ignore[no-untyped-call]


def plain_text(error: RayError) -> str:
    """The text of an error, without Ray's colors."""
    return _COLORS.sub("", str(error)).strip()
