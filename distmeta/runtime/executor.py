"""The interface of executors, which compute shards in this process or on Ray actors.

The runtime knows no algorithm: a `Recipe` travels to the workers, each of which builds a `Program` from it, and a
program computes a value from a snapshot and a shard. A shard may be computed twice (after a failure, or as a backup
copy). Its value is a pure function of snapshot and shard, so either result will do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.messages import Span


class Program(Protocol):
    """What a worker runs."""

    def prepare(self, work: Work, shard: Shard) -> None:
        """Start to make the shard's episodes on a background thread and return at once.

        The shard may be run by another worker after all: keep only the newest few.
        """

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        """Compute the shard's value: a `Report` for `update`, arrays or plain data for other work.

        Every attempt at a shard must give the same bits. The snapshot is the same object for all shards that come with
        it, and must not be changed.
        """

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`: `data_wait_s`, `compute_s`."""

    def close(self) -> None:
        """Stop background threads."""


class Recipe(Protocol):
    """Picklable description of a program."""

    def build(self) -> Program:
        """Build the program in the process that will run it."""


@dataclass(frozen=True)
class Result:
    """The value of one shard, or of a group of consecutive shards.

    Attributes:
        shard: Index of the (first) shard.
        value: What the program returned.
        worker: The worker that computed it.
        data_wait_s: Seconds that the worker waited for episodes.
        compute_s: Seconds of computation.
        spans: The same for each shard of a group; empty for a single shard.
    """

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float
    spans: tuple[Span, ...] = ()

    @property
    def parts(self) -> tuple[Span, ...]:
        """What each shard has cost, of a group or of a single one."""
        return self.spans or (Span(self.worker, self.data_wait_s, self.compute_s),)


@dataclass(frozen=True)
class WorkerState:
    """A worker as its executor sees it.

    Attributes:
        index: Index of the worker.
        state: `ready`, or why it computes nothing new: `pending` (waits for resources), `starting`, `draining`,
            `backoff` (before a restart), `excluded`.
        node: Address and id of its node; empty if it has none yet.
        leader: Index of its leader, if it has one.
    """

    index: int
    state: str
    node: str = ""
    leader: int | None = None


@dataclass(frozen=True)
class Incident:
    """A failure, or a change among the workers.

    Attributes:
        kind: A failure (see `distmeta.runtime.policy.decisions.FailureKind`), `excluded`, `joined` or `left`.
        worker: Index of the worker.
        node: Address and id of its node; empty if it has none yet.
        shard: The shard that failed, if any.
        detail: One line.
        outcome: What was done about it: `retry`, `restart`, `excluded`, `dropped`, `abort`; may be empty.
        traceback: The full text of the error.
    """

    kind: str
    worker: int
    node: str
    shard: int | None
    detail: str
    outcome: str = ""
    traceback: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether something failed; otherwise a worker came or went as it should."""
        return self.kind not in ("joined", "left", "started")


Feed = Callable[[], tuple[Snapshot, Shard] | None]
"""Returns the next shard of a stream and the snapshot to compute it from; None when there are no more."""


def _continue() -> None:
    pass


class Executor(ABC):
    """Maps shards over workers.

    Attributes:
        counts: Number of events since the start, by name: `restarts` (workers replaced), `retries` (shards computed
            again), `copies` (shards assigned to a second worker), and every kind of incident.
        interrupt: Called again and again while results are awaited; what it raises ends the call.
        meanwhile: Called once in the next call of `map`, when workers have got their first shards: the driver's own
            work that can be done while they compute.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.interrupt: Callable[[], None] = _continue
        self.meanwhile: Callable[[], object] = _continue
        self._incidents: list[Incident] = []

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """Number of active workers."""

    def workers(self) -> list[WorkerState]:
        """All workers, active or not; by default a single one in this process."""
        return [WorkerState(0, "ready")]

    def export(self, run: str, metrics: Mapping[str, float], by_worker: Mapping[int, Mapping[str, float]]) -> None:  # noqa: B027
        """Offer the newest values of a run, and of each of its workers, to whoever watches the cluster."""

    @abstractmethod
    def ready(self) -> None:
        """Wait until the initial workers have built their programs.

        Raises:
            UserError: The cluster has not enough resources for them.
            WorkerError: One cannot be started.
        """

    @abstractmethod
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """Compute every shard once, yielding results as they arrive, in any order.

        There is one call at a time: read an iterator to its end, or drop it, before the next call.

        Args:
            work: What to compute; passed on to the program.
            snapshot: Meta-parameters, sent to each node once.
            shards: Shards with different indices.
            upcoming: Shards of the next call, if it is of the same work: workers prepare their episodes ahead.

        Raises:
            WorkerError: A shard failed more often than allowed, or the program raised an exception.
            UserError: The program raised it.
        """

    @abstractmethod
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        """Compute shards until `feed` has no more: an idle worker gets the next one at once.

        Args:
            work: What to compute; passed on to the program.
            feed: Asked for one shard at a time; their indices differ.

        Raises:
            WorkerError, UserError: As `map`.
        """

    @abstractmethod
    def recompute(self, result: Result) -> None:
        """Compute the shard of a result of the present call again, on another worker if there is one.

        For results that the caller cannot use. The new one is yielded like any other.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the workers. A second call does nothing."""

    def call_meanwhile(self) -> None:
        """Call `meanwhile`, once."""
        meanwhile, self.meanwhile = self.meanwhile, _continue
        meanwhile()

    def incidents(self) -> list[Incident]:
        """Return the incidents since the last time that this was called."""
        incidents, self._incidents = self._incidents, []
        return incidents

    def record(self, incident: Incident) -> None:
        """Count and keep an incident."""
        self.counts[incident.kind] += 1
        self._incidents.append(incident)
