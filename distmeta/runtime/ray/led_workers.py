"""The workers of one leader: it asks them and watches them; the driver creates and stops them."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import RayError
from typing_extensions import override

from distmeta.config import RuntimeConfig
from distmeta.runtime.messages import Location
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.cluster import Cluster
from distmeta.runtime.ray.remote_call import CallKind, RemoteCall
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import RankHandle, WorkerHandle


def end_if_failed(task: asyncio.Task[None]) -> None:
    """End this process after an error in a task, which would go unnoticed: the driver then restarts the leader."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        traceback.print_exception(error)
        os._exit(1)


OnAnswer = Callable[[RemoteCall, Any], None]
"""Called with each answer, or with the `RayError` that a call failed with."""


class LedWorkers(WorkerGroup):
    """Actors that others have created. Answers are taken in the event loop of the leader's actor, as they come.

    Args:
        config: Timeouts, and how many workers the run may have.
        on_answer: What is called with answers.
    """

    def __init__(self, config: RuntimeConfig, on_answer: OnAnswer) -> None:
        nobody: Any = None  # creates no actor, so it needs no recipe
        super().__init__(config, nobody, "none", Cluster(started=True, disconnect=lambda: None))
        self._on_answer = on_answer
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, index: int, actor: Any, location: Location) -> WorkerHandle:
        """Take over a worker that is ready."""
        worker, now = self.workers[index], self._clock()
        worker.created([actor], now)
        self._locate(worker.ranks[0], location)
        worker.enter("ready", now)
        return worker

    def forget(self, worker: WorkerHandle) -> None:
        """Expect no more answers of a worker, whoever stops it."""
        for ref in [ref for ref, call in self.calls.items() if call.worker is worker]:
            del self.calls[ref]
        worker.stopped()
        worker.enter("backoff", self._clock())

    def ask(self, worker: WorkerHandle, key: ShardKey, args: Sequence[Any]) -> None:
        """Ask a worker for a shard; `args` are those of its actor's method `run`."""
        worker.enqueue(key, self._clock())
        self._expect(worker, worker.ranks[0], "shard", worker.actor.run.remote(*args), key)

    @override
    def start_due(self) -> None:
        pass  # the driver restarts workers

    @override
    def _expect(
        self,
        worker: WorkerHandle,
        rank: RankHandle,
        kind: CallKind,
        ref: Any,
        key: ShardKey | None = None,
        grad: Any = None,
    ) -> None:
        super()._expect(worker, rank, kind, ref, key, grad)
        task = asyncio.get_running_loop().create_task(self._take(self.calls[ref]))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        end_if_failed(task)

    @override
    def _has_answered(self, rank: RankHandle) -> bool:
        return False  # answers are taken before the next check

    async def _take(self, call: RemoteCall) -> None:
        try:
            answer = self.opened(call, await call.ref)
        except RayError as error:
            answer = error
        if self.calls.pop(call.ref, None) is not None:
            call.rank.last_heard = self._clock()
            self._on_answer(call, answer)
