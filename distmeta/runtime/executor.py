"""Running shards, in this process or elsewhere.

The runtime knows no algorithm: a `Recipe` travels to the workers, which make a `Program` of it, and a program turns a
snapshot and a shard into a value. Shards may be computed twice (after a failure, or by a backup worker); their value is
a pure function of the snapshot and the shard, so either copy serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distmeta.core.types import Shard, Snapshot, Work


class Program(Protocol):
    """What a worker does with shards."""

    def prepare(self, work: Work, shard: Shard) -> None:
        """Begin to make the shard's episodes on a background thread of the program; return at once.

        The shard may in the end be run by another worker: keep only the newest few.
        """

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        """Compute the shard's value: a Report for `update`, arrays or plain data for other work.

        Every attempt at a shard must give the same bits. The snapshot is the same object for all shards that come with
        it, and must not be changed.
        """

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`: `data_wait_s`, `compute_s`."""

    def close(self) -> None:
        """End background threads."""


class Recipe(Protocol):
    """Picklable description of a program."""

    def build(self) -> Program:
        """Make the program in the process that will run it."""


@dataclass(frozen=True)
class Result:
    """The value of one shard.

    Attributes:
        shard: Index of the shard.
        value: What the program returned.
        worker: Which worker computed it.
        data_wait_s: Seconds the worker waited for the shard's episodes.
        compute_s: Seconds it computed.
    """

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float


@dataclass(frozen=True)
class Incident:
    """Something that went wrong, or a change among the workers, for the record.

    Attributes:
        kind: A failure (`worker_died`, `node_lost`, ...; see `distmeta.runtime.policy.decisions`) or `joined`, `left`.
        worker: The worker.
        node: Where it ran; empty if it had not got that far.
        shard: The shard it was at, if any.
        detail: One line.
        outcome: What was done about it: `retry`, `restart`, `left out`, `dropped`, `abort`; may be empty.
        traceback: All that is known, for failures.
    """

    kind: str
    worker: int
    node: str
    shard: int | None
    detail: str
    outcome: str = ""
    traceback: str = ""


Feed = Callable[[], tuple[Snapshot, Shard] | None]
"""Gives the next shard of a stream and what to compute it from; None when there is no more."""


class Executor(ABC):
    """Maps shards over workers.

    Attributes:
        counts: What has happened since the start, by name: `restarts` (workers replaced), `retries` (shards run again),
            `copies` (shards given to a second worker), every kind of failure, `left_out`, `joined`, `left`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._incidents: list[Incident] = []

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """Workers at work now."""

    @abstractmethod
    def ready(self) -> None:
        """Wait until the workers to begin with have built their programs.

        Raises:
            UserError: There is no room for them.
            WorkerError: One cannot be started.
        """

    @abstractmethod
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """Run every shard once, yielding results as they come, in any order.

        One call is worked at a time: read one iterator to its end, or drop it, before the next call.

        Args:
            work: What to compute, passed on to the program.
            snapshot: Meta-parameters, sent once a node.
            shards: The work; their indices differ.
            upcoming: The next call's shards of the same work; workers prepare them when they have nothing better to do.

        Raises:
            WorkerError: A shard failed more often than allowed, or the program itself raised.
            UserError: The program raised it.
        """

    @abstractmethod
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        """Run shards without end: a worker that has nothing to do gets the next one of `feed` at once.

        Args:
            work: What to compute, passed on to the program.
            feed: Asked for one shard at a time; their indices differ.

        Raises:
            WorkerError, UserError: As `map`.
        """

    @abstractmethod
    def recompute(self, result: Result) -> None:
        """Compute the shard of a result of the present call once more, on another worker where there is one.

        For results that the caller cannot use. The new one is yielded like any other.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers. A second call does nothing."""

    def incidents(self) -> list[Incident]:
        """What happened since the last time this was asked."""
        found, self._incidents = self._incidents, []
        return found

    def record(self, incident: Incident) -> None:
        """Count something that happened, and keep it for the record."""
        self.counts[incident.kind] += 1
        self._incidents.append(incident)
