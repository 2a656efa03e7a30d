"""The actor of a leader: it hands the shards of a unit to its workers, adds their reports and answers once.

    driver -- unit --> leader -- shards --> workers      its own schedule: retries, copies of late shards
    driver <-- sum --- leader <-- reports -- workers     the sum of a group, as the server would add it
    driver <- events - leader                            workers that failed, or were released
    leader <- has ---- leader                            where a large snapshot may be fetched from

What to do about a failure is decided by the driver: the leader computes the shard on another worker and tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from distmeta.config import RuntimeConfig
from distmeta.core.types import Shard, Work
from distmeta.runtime.messages import (
    LeaderEvent,
    Location,
    ParamsWire,
    ReportWire,
    ResultWire,
    UnitRequest,
    unpack_shard,
)
from distmeta.runtime.policy.decisions import Failure, is_worker_failure
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.errors import failure_of
from distmeta.runtime.ray.led_workers import LedWorkers, end_if_failed
from distmeta.runtime.ray.open_unit import OpenUnit
from distmeta.runtime.ray.remote_call import RemoteCall
from distmeta.runtime.ray.worker_handle import WorkerHandle
from distmeta.runtime.shared import SharedMemory
from distmeta.runtime.wire import split_grad, sum_reports

CHECK_INTERVAL_S = 0.5
RELAY_TIMEOUT_S = 5.0
"""How long a leader waits for another one to have the snapshot, before it has its workers fetch it from anywhere."""
UnitKey = tuple[int, int]
Answer = list[ResultWire] | None
"""Results of a unit: one for all its shards, or one for each; None if it is given back."""


async def _answer(ref: Any) -> Any:
    return await ref


class LeaderActor:
    """A leader. All its methods run in one event loop, except `heartbeat`."""

    def __init__(self) -> None:
        self._schedule = Schedule()
        self._call_id = 0
        self._units: dict[UnitKey, tuple[OpenUnit, asyncio.Future[Answer]]] = {}
        self._relay: tuple[Any, asyncio.Future[None]] | None = None
        self._unit_of: dict[int, UnitKey] = {}
        self._releasing: set[int] = set()
        self._events: list[LeaderEvent] = []
        self._timer: asyncio.TimerHandle | None = None
        self._memory = SharedMemory()

    async def locate(self) -> Location:
        node_id: str = ray.get_runtime_context().get_node_id()
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return Location(node_id, host, os.getpid(), memory=self._memory.place)

    async def start(self, index: int, config: RuntimeConfig) -> Location:
        """Begin to lead; no workers yet."""
        torch.set_num_threads(1)
        self._tolerance = config.tolerance
        self._schedule = Schedule(speculate=config.tolerance.speculate)
        self._workers = LedWorkers(config, self._on_answer)
        self._has_events = asyncio.Event()
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        self._watching.add_done_callback(end_if_failed)
        return await self.locate()

    async def heartbeat(self) -> bool:
        return True

    async def adopt(self, index: int, actor: Any, location: Location) -> None:
        """Take over a worker that is ready."""
        # Ray may start the methods of such an actor out of order: the release may have come first.
        is_released = index in self._releasing and self._workers.workers[index].actor is None
        self._remove(self._workers.workers[index])
        self._workers.adopt(index, actor, location)
        if is_released:
            self._releasing.add(index)
        else:
            self._schedule.add_worker(index, location.node_id)
        self._pump()

    async def release(self, index: int) -> None:
        """Let a worker finish its shard and tell the driver then."""
        for key in self._schedule.drain_worker(index):
            self._workers.cancel(self._workers.workers[index], key)
        self._releasing.add(index)
        self._pump()

    async def remove(self, index: int) -> None:
        """Forget a worker that the driver stops."""
        self._remove(self._workers.workers[index])
        self._pump()

    async def events(self) -> list[LeaderEvent]:
        """Wait until there is something to tell."""
        await self._has_events.wait()
        self._has_events.clear()
        events, self._events = self._events, []
        return events

    async def unit(self, request: UnitRequest, snapshot: list[Any], source: Any = None) -> Answer:
        """Compute the shards of a unit.

        Args:
            request: The unit.
            snapshot: Ray's reference to the snapshot, in a list, so that it is not fetched here.
            source: The leader on whose node the snapshot has to be first; None if on no other's.
        """
        answer = await self._unit(request, snapshot, source)
        return None if answer is None else [self._memory.share(result, request.reader) for result in answer]

    async def _unit(self, request: UnitRequest, snapshot: list[Any], source: Any) -> Answer:
        call_id = request.key[0]
        if call_id > self._call_id:
            self._start_call(call_id, Work(request.work))
        if call_id < self._call_id:
            return None
        if request.key in self._units:
            return await asyncio.shield(self._units[request.key][1])
        shards = {shard.index: shard for shard in map(self._unpack, request.shards)}
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._units[request.key] = OpenUnit(request, snapshot[0], shards), future
        self._unit_of |= dict.fromkeys(shards, request.key)
        await self._relayed(snapshot[0], source)
        if not future.done():
            self._begin(request, shards)
        return await asyncio.shield(future)

    async def unit_split(
        self, request: UnitRequest, snapshot: list[Any], source: Any = None
    ) -> tuple[Answer, ParamsWire | None]:
        """Compute a unit as `unit` does. The gradient of a sum is a second object, which stays here until fetched."""
        answer = await self._unit(request, snapshot, source)
        if answer is None or not answer[0].spans:
            return answer, None
        result, grad = split_grad(answer[0])
        return [result], grad

    async def sum(self, reports: Sequence[ReportWire], *grads: ParamsWire) -> ReportWire:
        """Sum units of which each is a group, whose gradients are objects of their own."""
        return await asyncio.to_thread(sum_reports, reports, grads)

    async def has(self, snapshot: list[Any]) -> None:
        """Answer when this node has a snapshot, which others may then fetch from it.

        Args:
            snapshot: Ray's reference to it, in a list.
        """
        await self._relayed(snapshot[0], None)
        await snapshot[0]

    async def cancel_unit(self, key: UnitKey) -> None:
        """Answer a unit at once that another leader has computed; its shards are computed or not."""
        self._give_back(key)

    async def _relayed(self, snapshot: Any, source: Any) -> None:
        """Wait until the node that this one is to follow has a snapshot, once for each snapshot."""
        if self._relay is None or self._relay[0] != snapshot:
            if source is None:
                return
            self._relay = snapshot, asyncio.ensure_future(self._wait_for(source, snapshot))
        await asyncio.shield(self._relay[1])

    async def _wait_for(self, source: Any, snapshot: Any) -> None:
        with contextlib.suppress(RayError, TimeoutError):  # the snapshot is elsewhere, too
            await asyncio.wait_for(_answer(source.has.remote([snapshot])), RELAY_TIMEOUT_S)

    def _begin(self, request: UnitRequest, shards: dict[int, Shard]) -> None:
        for index, shard in shards.items():
            if index in request.excluded:
                self._schedule.requeue(shard, request.excluded[index])
            else:
                self._schedule.add_shard(shard)
        self._schedule.announce([self._unpack(packed) for packed in request.upcoming])
        self._pump()

    def _unpack(self, packed: bytes) -> Shard:
        return self._workers.requests.keep(unpack_shard(packed), packed)

    def _start_call(self, call_id: int, work: Work) -> None:
        for key in list(self._units):
            self._give_back(key)
        self._call_id = call_id
        self._unit_of.clear()
        self._workers.requests.start_call()
        self._schedule.start(work, (), call_id=call_id)

    def _give_back(self, key: UnitKey) -> None:
        if key in self._units:
            unit, future = self._units.pop(key)
            for index in unit.shards:
                if self._unit_of[index] == key:
                    self._schedule.discard(index)
            future.set_result(None)

    def _pump(self) -> None:
        """Ask workers for what is assigned to them now, and think again when the next shard is late."""
        now = time.monotonic()
        for assignment in self._schedule.assign(now):
            shard, index = assignment.shard, assignment.shard.index
            key = self._call_id, index
            worker = self._workers.workers[assignment.worker]
            packed = self._workers.requests.pack(self._call_id, shard, assignment.upcoming, worker.reader)
            unit, _ = self._units[self._unit_of[index]]
            carry = unit.request.carries.get(index)
            args = [packed, unit.snapshot, *([] if carry is None else [carry])]
            self._workers.ask(worker, key, args)
        for index in [index for index in self._releasing if not self._schedule.is_busy(index)]:
            worker = self._workers.workers[index]
            if worker.actor is not None:  # it is here
                self._tell(worker)
                self._remove(worker)
        if self._timer is not None:
            self._timer.cancel()
        check_at, loop = self._schedule.next_check_at(now), asyncio.get_running_loop()
        self._timer = None
        if check_at < now + CHECK_INTERVAL_S:  # else the next check comes first
            self._timer = loop.call_later(check_at - now, self._pump)

    def _on_answer(self, call: RemoteCall, answer: Any) -> None:
        if not call.is_current:
            return
        running = self._workers.complete(call)
        if isinstance(answer, RayError):
            failure = failure_of(call.worker.index, answer)
            # All calls of a worker fail when it dies; the shard that it was running is to blame.
            is_own = isinstance(answer, RayTaskError) or failure.kind == "object_lost" or running is None
            cause = answer.cause if isinstance(answer, RayTaskError) else None
            self._on_failure(call.worker, failure, call.key if is_own else running, cause)
        elif call.kind == "shard" and call.key is not None:
            self._on_report(call.worker, call.key, answer)
        self._pump()

    def _on_report(self, worker: WorkerHandle, key: ShardKey, result: ResultWire | None) -> None:
        computed = result is not None
        is_first, others = self._schedule.finished(worker.index, key, time.monotonic(), computed=computed)
        for other in others:
            self._workers.cancel(self._workers.workers[other], key)
        unit_key = self._unit_of.get(key[1])
        if result is None or not is_first or unit_key not in self._units:
            return
        unit, future = self._units[unit_key]
        if unit.add(result):
            del self._units[unit_key]
            future.set_result(unit.answer())

    def _on_failure(
        self, worker: WorkerHandle, failure: Failure, key: ShardKey | None, cause: Exception | None = None
    ) -> None:
        """Assign the shard to another worker, forget the worker if it has to be replaced, and tell the driver."""
        is_lost_object = failure.kind == "object_lost"
        if key is not None:
            self._schedule.failed(worker.index, key, time.monotonic(), None if is_lost_object else worker.index)
        self._tell(worker, failure, key, cause)
        if is_lost_object and key is not None and key[1] in self._unit_of:
            self._give_back(self._unit_of[key[1]])  # the driver puts the snapshot again
        if is_worker_failure(failure.kind):
            self._remove(worker)

    def _tell(
        self,
        worker: WorkerHandle,
        failure: Failure | None = None,
        key: ShardKey | None = None,
        cause: Exception | None = None,
    ) -> None:
        location = worker.ranks[0].location
        assert location is not None, "a worker that was adopted is somewhere"
        self._events.append(LeaderEvent(worker.index, location.pid, failure, key, cause))
        self._has_events.set()

    def _remove(self, worker: WorkerHandle) -> None:
        self._releasing.discard(worker.index)
        self._schedule.remove_worker(worker.index)
        self._workers.forget(worker)

    async def _watch(self) -> None:
        """Check heartbeats and deadlines of workers, for ever."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(CHECK_INTERVAL_S)
                self._workers.send_heartbeats()
                for worker in self._workers.active():
                    self._check(worker)
                self._pump()

    def _check(self, worker: WorkerHandle) -> None:
        limits = self._tolerance
        if self._workers.silent_rank(worker) is not None:
            what = f"no heartbeat for {limits.heartbeat_timeout_s:g} s (runtime.tolerance.heartbeat_timeout_s)"
            self._on_failure(worker, Failure("silent", worker.index, what), None)
        elif self._workers.is_overdue(worker, limits.shard_timeout_s):
            what = f"no answer within {limits.shard_timeout_s:g} s (runtime.tolerance.shard_timeout_s)"
            self._on_failure(worker, Failure("timed_out", worker.index, what), worker.queue[0])
