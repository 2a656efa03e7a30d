"""Running shards, in this process or elsewhere.

The runtime knows no algorithm: a `Recipe` travels to the workers, which make a `Program` of it, and a program turns a
snapshot and a shard into a value. Shards may be computed twice (after a failure); their value is a pure function of the
snapshot and the shard, so either copy serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distmeta.types import Shard, Snapshot


class Program(Protocol):
    """What a worker does with shards."""

    def prepare(self, kind: str, shard: Shard) -> None:
        """Begin to make the shard's episodes on a background thread of the program; return at once.

        The shard may in the end be run by another worker: keep only the newest few.
        """

    def run(self, kind: str, snapshot: Snapshot, shard: Shard) -> Any:
        """Compute the shard's value: for kind `update` a Report, for `evaluate` arrays.

        Every attempt at a shard must give the same bits. The snapshot is the same object for all shards that come with
        it, and must not be changed.
        """

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`: `data_wait_s`, `compute_s`."""


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


class Executor(ABC):
    """Maps shards over workers.

    Attributes:
        num_workers: Workers at work now.
        restarts: Workers replaced since the start.
        retries: Shards run again since the start.
    """

    num_workers: int
    restarts: int
    retries: int

    @abstractmethod
    def ready(self) -> None:
        """Wait until every worker has built its program.

        Raises:
            WorkerError: One cannot be started.
        """

    @abstractmethod
    def map(
        self, kind: str, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """Run every shard once, yielding results as they come, in any order.

        One call is worked at a time: read one iterator to its end, or drop it, before the next call.

        Args:
            kind: What to compute, passed on to the program.
            snapshot: Meta-parameters, sent once a node.
            shards: The work; their indices differ.
            upcoming: The next call's shards of the same kind; workers prepare them when they have nothing better to do.

        Raises:
            WorkerError: A shard failed more often than allowed, or the program itself raised.
            UserError: The program raised it.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers. A second call does nothing."""
