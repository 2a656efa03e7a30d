"""Failure policy: pure functions that decide what to do about a failure.

They return data and do nothing themselves, so that every case is tested without a cluster. The supervisor
(`distmeta.runtime.ray.supervisor`) acts on failures of shards and workers, the outer step on nonfinite updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distmeta.core.errors import DistmetaError, WorkerError

FailureKind = Literal[
    "worker_died",
    "node_lost",
    "out_of_memory",
    "peer_lost",
    "timed_out",
    "silent",
    "object_lost",
    "program_raised",
    "user_error",
    "nonfinite",
]
"""What failed:

- `worker_died`: the worker's process ended; `node_lost`: with its node; `out_of_memory`: it was killed for its memory;
- `peer_lost`: a rank of the worker could not go on without another one;
- `timed_out`: a shard, or the start of a worker, took too long; `silent`: heartbeats were not answered;
- `object_lost`: Ray lost an object;
- `program_raised`: the program raised an exception; `user_error`: one that the user has to fix;
- `nonfinite`: the update has an entry that is infinite or not a number.
"""

MAX_BACKOFF_S = 30.0
_MAX_TRACEBACK_LINES = 6
"""Last lines of a worker's traceback that the driver's error repeats."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt to compute a shard or to start a worker.

    Attributes:
        kind: What failed.
        worker: The worker that failed.
        detail: One line for the user.
        traceback: The full text of the error.
    """

    kind: FailureKind
    worker: int
    detail: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class FailureLimits:
    """Failure limits.

    Attributes:
        max_shard_retries: How many failures of one shard are retried; the next one ends the run.
        max_worker_failures: Failures in a row, without a finished shard in between, after which a worker is excluded.
    """

    max_shard_retries: int
    max_worker_failures: int


@dataclass(frozen=True)
class Retry:
    """Compute the shard again: not on worker `exclude`, as long as there is another one."""

    exclude: int | None


@dataclass(frozen=True)
class Drop:
    """Go on without the shard."""

    reason: str


@dataclass(frozen=True)
class Abort:
    """End the run."""

    reason: str


@dataclass(frozen=True)
class Restart:
    """Restart the worker after a backoff."""

    after_s: float


@dataclass(frozen=True)
class Exclude:
    """Go on without the worker."""

    reason: str


def on_shard_failure(shard: int, failures: Sequence[Failure], limits: FailureLimits, num_others: int) -> Retry | Abort:
    """Decide about a shard after its newest failure.

    A shard is a pure function of its snapshot, so a lost attempt costs nothing but time. An exception of the program is
    retried on another worker, where there is one, since the machine may be at fault: a missing file, a faulty device.

    Args:
        shard: Index of the shard.
        failures: All failures of the shard in this call, the newest last; at least one.
        limits: How many are tolerated.
        num_others: Active workers besides the one that failed.
    """
    newest = failures[-1]
    if newest.kind == "user_error":
        return Abort(newest.detail)
    if newest.kind == "program_raised":
        raised_on = {failure.worker for failure in failures if failure.kind == "program_raised"}
        if len(raised_on) > 1 or num_others == 0:
            return Abort(f"shard {shard} raised on worker {newest.worker}: {newest.detail}")
    if len(failures) > limits.max_shard_retries:
        limit = f"runtime.tolerance.max_shard_retries is {limits.max_shard_retries}"
        return Abort(f"shard {shard} failed {len(failures)} times ({limit}): {_summary(failures)}")
    return Retry(exclude=None if newest.kind == "object_lost" else newest.worker)


def on_worker_failure(failures: Sequence[Failure], limits: FailureLimits, num_others: int) -> Restart | Exclude | Abort:
    """Decide about a worker after its newest failure.

    A lost node does not count against its worker. The backoff grows exponentially, so that a worker that dies at once
    does not keep a node busy with starting it.

    Args:
        failures: Failures in a row, without a finished shard in between, the newest last; at least one.
        limits: How many are tolerated.
        num_others: Active workers besides this one.
    """
    newest = failures[-1]
    counted = [failure for failure in failures if failure.kind != "node_lost"]
    raised = newest.kind in ("program_raised", "user_error")
    if raised and not num_others:
        return Abort(f"worker {newest.worker}: {newest.detail}")
    if newest.kind == "node_lost" or len(counted) < 2:
        return Restart(0.0)
    last_chance = not num_others and len(counted) <= limits.max_worker_failures
    if len(counted) < limits.max_worker_failures or last_chance:
        return Restart(min(2.0 ** (len(counted) - 2), MAX_BACKOFF_S))
    reason = f"worker {newest.worker} failed {len(counted)} times in a row: {_summary(counted)}"
    return Exclude(reason) if num_others else Abort(reason)


def on_nonfinite(
    shard: int, workers: Sequence[int], num_workers: int, policy: Literal["abort", "drop"]
) -> Retry | Drop | Abort:
    """Decide about an update with an entry that is infinite or not a number.

    It is computed once more by another worker: the same bits from both rule out a faulty machine.

    Args:
        shard: Index of the shard.
        workers: Workers that have computed such an update for it in this step.
        num_workers: Active workers.
        policy: What to do then (`outer.nonfinite`).
    """
    if len(workers) == 1 and num_workers > 1:
        return Retry(exclude=workers[0])
    reason = f"the update of shard {shard} is nonfinite (an entry is infinite or not a number)"
    if policy == "drop":
        return Drop(reason)
    return Abort(f"{reason}; a lower outer.lr or outer.clip_norm may help, outer.nonfinite=drop skips such shards")


def is_worker_failure(kind: FailureKind) -> bool:
    """Whether the worker has to be replaced. One whose program raised may be in any state."""
    return kind not in ("object_lost", "nonfinite")


def driver_error(cause: BaseException | None, location: str, traceback: str) -> DistmetaError:
    """Make the error that the driver raises for an exception of the program.

    Errors that a user can fix are raised unchanged. Anything else becomes a `WorkerError` with its type, its message
    and the end of its traceback.

    Args:
        cause: The exception; None if it could not be sent.
        location: Where it was raised.
        traceback: Its formatted traceback.
    """
    if isinstance(cause, DistmetaError):
        return cause
    lines = [line for line in traceback.rstrip().splitlines() if line.strip()]
    title = f"{type(cause).__name__}: {cause}" if cause is not None else lines[-1] if lines else "unknown error"
    return WorkerError("\n".join([f"{location}: {title}", *lines[-_MAX_TRACEBACK_LINES:]]))


def _summary(failures: Sequence[Failure]) -> str:
    return "; ".join(f"worker {failure.worker}: {failure.detail or failure.kind}" for failure in failures)
