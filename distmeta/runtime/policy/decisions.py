"""What to do about failures: pure functions that return data.

The executor acts on these decisions and decides nothing itself, so every case is tested without a cluster.
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
    "timed_out",
    "silent",
    "object_lost",
    "program_raised",
    "user_error",
    "nonfinite",
]
"""The worker's process ended; its machine is gone; it was ended for its memory; it did not answer in time; it gave no
sign of life; Ray lost an object; the program raised, or raised what a user has to mend; the update is of no use."""

LONGEST_REST_S = 30.0
_TRACE_LINES = 6
"""Last lines of a worker's traceback that its error repeats."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a shard, or at starting a worker.

    Attributes:
        kind: What happened.
        worker: The worker that tried.
        detail: One line for people.
        traceback: All that is known.
    """

    kind: FailureKind
    worker: int
    detail: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Policy:
    """How much is borne.

    Attributes:
        max_shard_retries: So many failures of one shard are; the next one ends the run.
        max_worker_failures: After so many in a row, without a shard in between, a worker is left out.
    """

    max_shard_retries: int
    max_worker_failures: int


@dataclass(frozen=True)
class Retry:
    """Try the shard again. The worker `exclude` shall not get it, as long as there is another one."""

    exclude: int | None


@dataclass(frozen=True)
class Drop:
    """Go on without the shard, for this reason."""

    reason: str


@dataclass(frozen=True)
class Abort:
    """Give up, for this reason."""

    reason: str


@dataclass(frozen=True)
class Restart:
    """Start the worker anew after a rest."""

    after_s: float


@dataclass(frozen=True)
class LeaveOut:
    """Go on without the worker, for this reason."""

    reason: str


def on_failure(shard: int, failures: Sequence[Failure], policy: Policy, others: int) -> Retry | Abort:
    """Decide about a shard after its newest failure.

    A shard is a pure function of its snapshot, so a lost attempt costs time and nothing else. An exception of the
    program may be the fault of the machine (a missing file, a faulty device) only if another worker gets on.

    Args:
        shard: Its index.
        failures: All failures of the shard in this step, the newest last; at least one.
        policy: How many are borne.
        others: Workers at hand besides the one that failed.
    """
    newest = failures[-1]
    if newest.kind == "user_error":
        return Abort(newest.detail)
    if newest.kind == "program_raised":
        raised = {failure.worker for failure in failures if failure.kind == "program_raised"}
        if len(raised) > 1 or others == 0:
            return Abort(f"shard {shard} raised on worker {newest.worker}: {newest.detail}")
    if len(failures) > policy.max_shard_retries:
        limit = f"runtime.tolerance.max_shard_retries is {policy.max_shard_retries}"
        return Abort(f"shard {shard} failed {len(failures)} times ({limit}): {_listed(failures)}")
    return Retry(exclude=None if newest.kind == "object_lost" else newest.worker)


def on_worker_failure(failures: Sequence[Failure], policy: Policy, others: int) -> Restart | LeaveOut | Abort:
    """Decide about a worker after its newest failure.

    A lost machine is not its worker's fault. Rests grow, so that a worker that dies at once does not keep a machine
    busy with starting it.

    Args:
        failures: Those in a row, without a shard in between, the newest last; at least one.
        policy: How many are borne.
        others: Workers at work besides this one.
    """
    newest = failures[-1]
    own = [failure for failure in failures if failure.kind != "node_lost"]
    raised = newest.kind in ("program_raised", "user_error")
    if raised and not others:
        return Abort(f"worker {newest.worker}: {newest.detail}")
    if newest.kind == "node_lost" or len(own) < 2:
        return Restart(0.0)
    if len(own) < policy.max_worker_failures or (not others and len(own) <= policy.max_worker_failures):
        return Restart(min(2.0 ** (len(own) - 2), LONGEST_REST_S))
    reason = f"worker {newest.worker} failed {len(own)} times in a row: {_listed(own)}"
    return LeaveOut(reason) if others else Abort(reason)


def on_nonfinite(
    shard: int, workers: Sequence[int], num_workers: int, policy: Literal["abort", "drop"]
) -> Retry | Drop | Abort:
    """Decide about an update with an entry that is infinite or not a number.

    The same bits from a second worker rule out a faulty machine.

    Args:
        shard: Its index.
        workers: Those that have computed such an update for it in this step.
        num_workers: Workers at work.
        policy: What the configuration wants then (`outer.nonfinite`).
    """
    if len(workers) == 1 and num_workers > 1:
        return Retry(exclude=workers[0])
    reason = f"the update of shard {shard} is nonfinite (an entry is infinite or not a number)"
    if policy == "drop":
        return Drop(reason)
    return Abort(f"{reason}; a lower rate or outer.clip_norm may help, outer.nonfinite=drop leaves such shards out")


def loses_worker(kind: FailureKind) -> bool:
    """True if the worker is of no more use and has to be replaced. One whose program raised may be in any state."""
    return kind not in ("object_lost", "nonfinite")


def surfaced(cause: BaseException | None, place: str, traceback: str) -> DistmetaError:
    """The error to raise in the driver for an exception of a program.

    Errors that a user can mend pass unchanged. Anything else becomes a `WorkerError` with its type, its message and the
    end of its traceback.

    Args:
        cause: The exception, where it could be sent.
        place: Where it happened.
        traceback: Its formatted traceback.
    """
    if isinstance(cause, DistmetaError):
        return cause
    lines = [line for line in traceback.rstrip().splitlines() if line.strip()]
    title = f"{type(cause).__name__}: {cause}" if cause is not None else lines[-1] if lines else "unknown error"
    return WorkerError("\n".join([f"{place}: {title}", *lines[-_TRACE_LINES:]]))


def _listed(failures: Sequence[Failure]) -> str:
    return "; ".join(f"worker {failure.worker}: {failure.detail or failure.kind}" for failure in failures)
