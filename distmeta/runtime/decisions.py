"""What to do about failures, and who computes which shard next: pure functions that return data.

The executor acts on these decisions and decides nothing itself, so every case is tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distmeta.errors import DistmetaError, WorkerError
from distmeta.types import Shard

FailureKind = Literal["worker_died", "timed_out", "program_raised", "object_lost"]

_TRACE_LINES = 6
"""Last lines of a worker's traceback that its error repeats."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a shard, or at starting a worker.

    Attributes:
        kind: The worker's process ended, it did not answer in time, the program raised, or Ray lost an object.
        worker: The worker that tried.
        detail: One line for people.
    """

    kind: FailureKind
    worker: int
    detail: str = ""


@dataclass(frozen=True)
class Policy:
    """How much is borne. `max_shard_retries` failures of one shard are; the next one ends the run."""

    max_shard_retries: int


@dataclass(frozen=True)
class Retry:
    """Try again. The worker `exclude` shall not get it, as long as there is another one."""

    exclude: int | None


@dataclass(frozen=True)
class Abort:
    """Give up, for this reason."""

    reason: str


def on_failure(shard: Shard | None, failures: Sequence[Failure], policy: Policy) -> Retry | Abort:
    """Decide about the newest failure.

    A shard is a pure function of its snapshot, so a lost attempt costs time and nothing else. So is an exception of the
    program: another attempt would raise it again.

    Args:
        shard: What failed; None for the start of a worker.
        failures: All failures of this shard (or of this worker's start), the newest last; at least one.
        policy: How many are borne.
    """
    newest = failures[-1]
    what = f"shard {shard.index}" if shard else f"the start of worker {newest.worker}"
    if newest.kind == "program_raised":
        return Abort(f"{what} raised on worker {newest.worker}: {newest.detail}")
    if len(failures) > policy.max_shard_retries:
        listed = "; ".join(f"worker {failure.worker}: {failure.detail or failure.kind}" for failure in failures)
        return Abort(
            f"{what} failed {len(failures)} times (runtime.max_shard_retries is {policy.max_shard_retries}): {listed}"
        )
    return Retry(exclude=newest.worker if loses_worker(newest.kind) else None)


def loses_worker(kind: FailureKind) -> bool:
    """True if the worker is of no more use and has to be replaced."""
    return kind in ("worker_died", "timed_out")


def next_shard(
    pending: Sequence[Shard], worker: int, num_workers: int, excluded: Mapping[int, int], *, steal: bool
) -> Shard | None:
    """Choose a shard for a worker: one that failed elsewhere, or its own (index modulo workers), or another's.

    Args:
        pending: Shards that nobody has, in order.
        worker: The worker that has room.
        num_workers: Number of workers.
        excluded: Shard index -> the worker it failed on.
        steal: The worker would stand idle; let it take another worker's shard, the one which that worker reaches last.
    """
    allowed = [shard for shard in pending if num_workers == 1 or excluded.get(shard.index) != worker]
    failed = [shard for shard in allowed if shard.index in excluded]
    own = [shard for shard in allowed if shard.index % num_workers == worker]
    if failed or own:
        return (failed or own)[0]
    return allowed[-1] if steal and allowed else None


def likely_next(
    shard: Shard, pending: Sequence[Shard], upcoming: Sequence[Shard], worker: int, num_workers: int
) -> Shard | None:
    """The shard that a worker will most likely get after `shard`: its own next one, now or in the next call."""
    for candidate in (*pending, *upcoming):
        if candidate is not shard and candidate.index % num_workers == worker:
            return candidate
    return None


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
