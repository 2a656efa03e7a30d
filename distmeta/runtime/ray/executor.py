"""The executor over Ray actors.

    Schedule      who computes what (pure)         assign -> assignments -> WorkerGroup -> actors
    WorkerGroup   the actors and their answers     wait -> Schedule.finished -> results
    Supervisor    heartbeats, deadlines, failures  acts on decisions (pure)
    Aggregator    sums reports near their workers, where that saves bytes

The driver waits for the answers of all workers together, and checks on the workers in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from distmeta.config import RuntimeConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Report, Shard, Snapshot, Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Executor, Feed, Incident, Recipe, Result, WorkerState
from distmeta.runtime.memory import prefault_object_store
from distmeta.runtime.messages import ReportWire, ResultWire
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES, WorkerActor
from distmeta.runtime.ray.aggregation import Aggregator, aggregates_on_nodes
from distmeta.runtime.ray.call import CallState
from distmeta.runtime.ray.cluster import (
    Cluster,
    connect,
    insufficient_capacity,
    object_store_bytes,
    wait_for_capacity,
)
from distmeta.runtime.ray.errors import failure_of
from distmeta.runtime.ray.groups import ReportGroups
from distmeta.runtime.ray.metrics import Gauges
from distmeta.runtime.ray.remote_call import START_CALLS, RemoteCall
from distmeta.runtime.ray.supervisor import START_TIMEOUT_S, Assigner, Supervisor
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import WorkerHandle
from distmeta.runtime.wire import decode_result, encode_snapshot

PLACEMENT_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.5


class RayExecutor(Executor):
    """Computes shards on Ray actors that are spread over the cluster.

    Args:
        config: Workers, their resources, deadlines and failure limits.
        recipe: The program. Workers build it in the background; what that raises, `ready` or `map` raises.
        compression: How updates are rounded for transport (`outer.compression`).
        update_bytes: Size of the parameters, and so of an update.
        cluster: The cluster, which is left when the executor is closed; None connects to the configured one.
        placement_timeout_s: How long to wait for resources for the workers: the cluster may be growing.
        actor: The class of the workers' actors.

    Raises:
        UserError: The cluster cannot be reached, or has not enough resources for the workers.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        recipe: Recipe,
        compression: Compression = "none",
        update_bytes: int = 0,
        *,
        cluster: Cluster | None = None,
        placement_timeout_s: float = PLACEMENT_TIMEOUT_S,
        actor: type[Any] = WorkerActor,
    ) -> None:
        super().__init__()
        self._config, self._placement_timeout_s = config, placement_timeout_s
        self._schedule = self._make_schedule(speculate=config.tolerance.speculate)
        self._call = CallState(0, Work(""))
        self._serial = 0
        self._snapshot_ref: tuple[Snapshot, Work, Any] | None = None
        self._is_ready = False
        self._gauges = Gauges()
        with contextlib.ExitStack() as stack:
            cluster = cluster or connect(config, object_store_bytes(config.max_workers, update_bytes))
            stack.callback(cluster.disconnect)
            self._owns_cluster = cluster.started
            wait_for_capacity(config, cluster, placement_timeout_s)
            self._worker_group = WorkerGroup(config, recipe, compression, cluster, actor=actor)
            stack.callback(self._worker_group.close)
            self._supervisor = Supervisor(
                config.tolerance,
                self._worker_group,
                self._make_assigner(cluster, stack, update_bytes),
                self,
                on_worker_lost=self._on_worker_lost,
                on_object_lost=self._drop_snapshot_ref,
            )
            self._create_actors()
            self._stack = stack.pop_all()

    @property
    @override
    def num_workers(self) -> int:
        return len(self._worker_group.active())

    @override
    def workers(self) -> list[WorkerState]:
        workers = self._worker_group.workers
        return [WorkerState(worker.index, worker.state, worker.node, worker.leader) for worker in workers]

    @override
    def export(self, run: str, metrics: Mapping[str, float], by_worker: Mapping[int, Mapping[str, float]]) -> None:
        self._gauges.set(metrics, run=run)
        for index, values in by_worker.items():
            host = self._worker_group.workers[index].host
            self._gauges.set(values, run=run, worker=str(index), host=host)

    @override
    def ready(self) -> None:
        started = time.monotonic()
        # In a cluster started here nobody else takes resources: a worker that is missing only starts slowly.
        timeout_s = START_TIMEOUT_S if self._owns_cluster else self._placement_timeout_s
        min_workers, workers = self._config.min_workers, self._worker_group.workers
        while not self._is_ready:
            self.interrupt()
            self._handle_calls(self._worker_group.wait(POLL_INTERVAL_S))
            num_placed = sum(worker.state in ("starting", "ready") for worker in workers)
            if num_placed < min_workers and time.monotonic() - started > timeout_s:
                if self._owns_cluster:
                    delays = [worker.start_up.delay(time.monotonic()) for worker in workers if worker.start_up]
                    missing = f"{min_workers - num_placed} workers did not start in {timeout_s:g} s"
                    raise WorkerError("; ".join([missing, *delays[:1]]))
                raise insufficient_capacity(self._config)
            num_usable = sum(worker.state != "excluded" for worker in workers)
            self._is_ready = self.num_workers >= min(min_workers, num_usable)

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        self._schedule.start(work, shards, upcoming)
        self._worker_group.requests.start_call()
        call_id, by_index = self._schedule.call_id, {shard.index: (shard, snapshot) for shard in shards}
        aggregator = None
        num_nodes = len({worker.node_id for worker in self._worker_group.active()})
        if aggregates_on_nodes(self._config.tolerance.aggregate, num_nodes, snapshot.params):
            groups = ReportGroups.of(by_index)
            aggregator = Aggregator(call_id, groups, self._worker_group, self._requeue, self._on_gradient_lost)
        return self._run(CallState(call_id, work, by_index, len(shards), aggregator=aggregator))

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        self._schedule.start(work, (), stream=True)
        self._worker_group.requests.start_call()
        return self._run(CallState(self._schedule.call_id, work, feed=feed))

    @override
    def recompute(self, result: Result) -> None:
        self.counts["retries"] += 1
        self._call.num_missing += 1
        self._schedule.requeue(self._call.shards[result.shard][0], exclude=result.worker)

    @override
    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        self._stack.close()

    def _run(self, call: CallState) -> Iterator[Result]:
        self._call = self._supervisor.call = call
        while True:
            self.interrupt()
            if self._schedule.call_id != call.call_id:
                raise RuntimeError("another call was started before this one's results were read")
            self._pull_shards(call)
            if not call.num_missing:
                return
            now = time.monotonic()
            self._submit_assigned(call, now)
            self.call_meanwhile()
            timeout_s = max(0.0, min(POLL_INTERVAL_S, self._schedule.next_check_at(now) - now))
            for result in self._handle_calls(self._worker_group.wait(timeout_s)):
                call.num_missing -= result.value.count if isinstance(result.value, Report) else 1
                yield result

    def _pull_shards(self, call: CallState) -> None:
        """Take a shard of the feed for each idle worker."""
        while call.feed is not None and self._schedule.has_idle_worker():
            item = call.feed()
            if item is None:
                call.feed = None
                return
            snapshot, shard = item
            call.shards[shard.index] = (shard, snapshot)
            call.num_missing += 1
            self._schedule.add_shard(shard)

    def _submit_assigned(self, call: CallState, now: float) -> None:
        for assignment in self._schedule.assign(now):
            index = assignment.shard.index
            worker = self._worker_group.workers[assignment.worker]
            snapshot = self._put_snapshot(call.shards[index][1], call.work)
            split_grad = call.aggregator is not None
            self._worker_group.submit(worker, assignment, (call.call_id, index), snapshot, split_grad=split_grad)
        self.counts["copies"] = self._schedule.copies

    def _put_snapshot(self, snapshot: Snapshot, work: Work) -> Any:
        """Put snapshot and work into the object store, unless they were the last ones. Those are released."""
        last = self._snapshot_ref
        if last is None or last[0] is not snapshot or (last[1] is not work and last[1] != work):
            self._serial += 1
            wire = encode_snapshot(snapshot, self._serial, work)
            self._snapshot_ref = snapshot, work, ray.put(wire)
            if self._serial == 1 and wire.params.num_bytes >= LARGE_UPDATE_BYTES:
                prefault_object_store()
        assert self._snapshot_ref is not None
        return self._snapshot_ref[2]

    def _drop_snapshot_ref(self) -> None:
        """Drop the reference so that the snapshot is put again: it may be the object that Ray lost."""
        self._snapshot_ref = None

    def _handle_calls(self, calls: Sequence[RemoteCall]) -> list[Result]:
        """Handle answers, then check the workers. Returns the first report of each shard of the present call."""
        results: list[Result] = []
        for call, answer in zip(calls, self._worker_group.fetch_answers(calls), strict=True):
            if not call.is_current:
                continue  # the worker was stopped because of an earlier one of these
            running = self._worker_group.complete(call)
            if isinstance(answer, RayError):
                self._handle_error(call, answer, running)
            else:
                results += self._handle_answer(call, answer)
        self._check()
        return results

    def _check(self) -> None:
        self._supervisor.check()

    def _make_schedule(self, *, speculate: bool) -> Schedule:
        return Schedule(speculate=speculate)

    def _create_actors(self) -> None:
        for worker in self._worker_group.workers:
            self._worker_group.create(worker)

    def _make_assigner(self, cluster: Cluster, stack: contextlib.ExitStack, update_bytes: int) -> Assigner:
        """Who hands shards to workers; what it starts is closed with the stack."""
        return self._schedule

    def _handle_error(self, call: RemoteCall, error: RayError, running: ShardKey | None) -> None:
        rank = call.rank
        if failure_of(call.worker.index, error).kind == "peer_lost":
            rank, error = self._worker_group.lost_rank(call.worker) or (rank, error)
        failure = failure_of(call.worker.index, error)
        failure = replace(failure, detail=call.worker.name_of(rank) + failure.detail)
        # All calls of a worker fail when it dies; the shard that it was running is to blame.
        is_own = isinstance(error, RayTaskError) or failure.kind == "object_lost" or running is None
        is_sum = call.kind == "sum"
        if is_sum and call.key is not None and self._call.aggregator is not None:
            self._call.aggregator.retry(call.key)
        # The other ranks' answers do not count: the shard that rank 0 has not answered yet is to blame.
        key = call.key if is_own and call.kind != "follow" else running
        self._supervisor.handle_failure(call.worker, failure, error, key, reported=is_own and is_sum)

    def _handle_answer(self, call: RemoteCall, value: Any) -> list[Result]:
        worker = call.worker
        if call.kind in START_CALLS:
            if self._worker_group.advance(call, value):
                self._on_started(worker)
        elif call.kind == "sum" and call.key is not None and self._call.aggregator is not None:
            results = self._call.aggregator.add_sum(call.key, value)
            self.counts["groups"] += len(results)
            return results
        elif call.kind == "shard" and call.key is not None:
            return self._handle_report(worker, call.key, value, call.grad)
        return []

    def _on_started(self, worker: WorkerHandle) -> None:
        worker.enter("ready", time.monotonic())
        self._schedule.add_worker(worker.index, worker.node_id)
        if worker.start_up is not None:
            detail = f"{len(worker.ranks)} ranks have started: {worker.start_up.summary()}"
            self.record(Incident("started", worker.index, worker.node, None, detail))
        if self._is_ready:
            self.record(Incident("joined", worker.index, worker.node, None, "is ready"))

    def _handle_report(self, worker: WorkerHandle, key: ShardKey, value: ResultWire | None, grad: Any) -> list[Result]:
        is_first, others = self._schedule.finished(worker.index, key, time.monotonic(), computed=value is not None)
        if value is not None:
            worker.failures.clear()
        for other in others:
            self._worker_group.cancel(self._worker_group.workers[other], key)
        if not is_first or value is None:
            return []
        if self._call.aggregator is None or not isinstance(value.value, ReportWire):
            return [decode_result(value)]
        return self._call.aggregator.add_report(worker, value, grad)

    def _on_worker_lost(self, worker: int) -> None:
        if self._call.aggregator is not None:
            self._call.aggregator.on_worker_lost(worker)

    def _on_gradient_lost(self, worker: WorkerHandle, shard: int, error: RayError) -> None:
        failure = Failure("object_lost", worker.index, f"its gradient was lost ({type(error).__name__})")
        self._supervisor.handle_failure(worker, failure, error, (self._call.call_id, shard), reported=True)
        self._schedule.requeue(self._call.shards[shard][0], exclude=None)

    def _requeue(self, shard: int) -> None:
        """Compute a shard again whose report is lost with its group."""
        self.counts["retries"] += 1
        self._schedule.requeue(self._call.shards[shard][0], exclude=None)
