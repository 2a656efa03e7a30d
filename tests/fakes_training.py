"""Fakes for the training loop: an executor that computes with a function, a tracker that remembers what it is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from distmeta.core.types import Report, Shard, Snapshot, Update, Work
from distmeta.runtime.executor import Executor, Feed, Result
from distmeta.tracking.base import MetricPoint
from distmeta.tracking.null import NullTracker


@dataclass(frozen=True)
class Call:
    """What a worker is asked to compute.

    Attributes:
        work, snapshot, shard: Arguments of the program.
        worker: Index of the worker.
    """

    work: Work
    snapshot: Snapshot
    shard: Shard
    worker: int


Compute = Callable[[Call], Any]


def constant_update(call: Call, value: float = 1.0) -> Report:
    """A gradient of `value` for every entry of every parameter and task; the loss of a task is 2."""
    num_tasks = len(call.shard.specs)
    grad = {name: torch.full_like(tensor, value * num_tasks) for name, tensor in call.snapshot.params.items()}
    return Report(call.snapshot.version, call.shard.index, Update(grad, float(num_tasks), {"loss": 2.0 * num_tasks}))


class FakeExecutor(Executor):
    """Computes shards in the calling thread. Shard `i` runs on worker `i % workers`, a retry on the next one.

    Args:
        compute: Computes the value of a shard.
        workers: Number of workers; a stream has as many shards in flight.
        reverse: Yield the results of a map in reverse order.

    Attributes:
        calls: All computed shards, in order.
        upcoming: Indices of the upcoming shards of each map.
        closed: Whether `close` has been called.
    """

    def __init__(self, compute: Compute = constant_update, workers: int = 1, *, reverse: bool = False) -> None:
        super().__init__()
        self._compute, self._workers, self._reverse = compute, workers, reverse
        self._pending: deque[tuple[Snapshot, Shard]] = deque()
        self._shards: dict[int, tuple[Snapshot, Shard]] = {}
        self._attempts: Counter[int] = Counter()
        self.calls: list[Call] = []
        self.upcoming: list[list[int]] = []
        self.closed = False

    @property
    @override
    def num_workers(self) -> int:
        return self._workers

    @override
    def ready(self) -> None:
        pass

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        self.upcoming.append([shard.index for shard in upcoming])
        self._attempts.clear()
        self._shards = {shard.index: (snapshot, shard) for shard in shards}
        self._pending = deque(self._shards[shard.index] for shard in (reversed(shards) if self._reverse else shards))
        while self._pending:
            yield self._run(work, *self._pending.popleft())

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        running: deque[tuple[Snapshot, Shard]] = deque()
        while True:
            while len(running) < self._workers and (item := feed()) is not None:
                running.append(item)
            if not running:
                return
            yield self._run(work, *running.popleft())

    @override
    def recompute(self, result: Result) -> None:
        self.counts["retries"] += 1
        self._pending.append(self._shards[result.shard])

    @override
    def close(self) -> None:
        self.closed = True

    def _run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Result:
        worker = (shard.index + self._attempts[shard.index]) % self._workers
        self._attempts[shard.index] += 1
        call = Call(work, snapshot, shard, worker)
        self.calls.append(call)
        return Result(shard.index, self._compute(call), worker, 0.25, 0.5)


@dataclass
class FakeTracker(NullTracker):
    """Remembers everything.

    Attributes:
        unconfirmed: Result of `pending`.
        started: Name, id to resume and pending points of `start`.
        tags: Further tags of each `start`.
        metrics: Metrics by step; a later value of the same step and name replaces an earlier one.
        texts: Contents by path.
        artifacts: Names of files and the folders that they were saved in.
        models: Names of checkpoints that were saved as models.
        status: Argument of `close`; None while the run is open.
    """

    unconfirmed: list[MetricPoint] = field(default_factory=list)
    started: list[tuple[str, str | None, list[MetricPoint]]] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    status: str | None = None

    @override
    def start(
        self,
        name: str,
        config: Mapping[str, object],
        resume: str | None,
        pending: Sequence[MetricPoint] = (),
        tags: Mapping[str, str] | None = None,
    ) -> str:
        self.started.append((name, resume, list(pending)))
        self.tags.append(dict(tags or {}))
        return "fake-id"

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.setdefault(step, {}).update(metrics)

    @override
    def pending(self) -> list[MetricPoint]:
        return self.unconfirmed

    @override
    def text(self, content: str, path: str) -> None:
        self.texts[path] = content

    @override
    def artifact(self, path: Path, folder: str) -> None:
        assert path.is_file()
        self.artifacts.append((path.name, folder))

    @override
    def model(self, checkpoint: Path, name: str) -> None:
        assert checkpoint.is_dir()
        self.models.append(checkpoint.name)

    @override
    def address(self) -> str | None:
        return "fake://run"

    @override
    def close(self, status: Any = "FINISHED") -> None:
        self.status = status
