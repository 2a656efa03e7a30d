"""The executor over leaders, for runs of many workers.

    Schedule      of units over the leaders' slots (pure)     assign -> units -> LeaderGroup -> leaders -> workers
    LeaderGroup   the leaders and their answers               wait -> Schedule.finished -> results
    WorkerGroup   the workers: created, replaced
    Following     which leader each worker has
    Supervisor    two of them: of the workers' failures, which leaders tell, and of the leaders' own

A leader that dies costs its units: they go to others, and so do its workers, until it is back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from typing_extensions import override

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.executor import Feed, Incident, Result
from distmeta.runtime.messages import LeaderEvent, ResultWire, UnitRequest
from distmeta.runtime.policy.decisions import driver_error
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.leaders import Relays, as_shard, leader_of, num_leaders, single_unit, units_of
from distmeta.runtime.policy.schedule import Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.runtime.ray.aggregation import Aggregator, aggregates_on_nodes, is_large
from distmeta.runtime.ray.call import CallState
from distmeta.runtime.ray.cluster import Cluster, num_nodes
from distmeta.runtime.ray.errors import failure_of, plain_text, task_error
from distmeta.runtime.ray.executor import POLL_INTERVAL_S, RayExecutor
from distmeta.runtime.ray.following import Following, OfLeaders, OfWorkers
from distmeta.runtime.ray.groups import ReportGroups
from distmeta.runtime.ray.leader_group import LeaderGroup
from distmeta.runtime.ray.remote_call import START_CALLS, RemoteCall
from distmeta.runtime.ray.supervisor import Assigner, Supervisor
from distmeta.runtime.ray.worker_handle import WorkerHandle
from distmeta.runtime.wire import decode_result, encode_params
from distmeta.server.tree import FAN_IN


class LedExecutor(RayExecutor):
    """Computes shards on workers under leaders. Arguments and errors are those of `RayExecutor`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._units: dict[int, list[Shard]] = {}
        self._upcoming: dict[int, list[Shard]] = {}
        self._excluded: dict[int, int] = {}
        self._relays: tuple[Any, Relays] | None = None
        super().__init__(*args, **options)

    @property
    @override
    def num_workers(self) -> int:
        return sum(worker.leader is not None for worker in self._worker_group.active())

    @override
    def ready(self) -> None:
        super().ready()
        while not all(leader.state in ("ready", "excluded") for leader in self._leader_group.workers):
            self.interrupt()
            self._handle_calls(self._worker_group.wait(POLL_INTERVAL_S))

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        self._units, self._upcoming = units_of(shards), units_of(upcoming)
        self._excluded.clear()
        self._schedule.start(work, [as_shard(unit, members) for unit, members in self._units.items()])
        self._worker_group.requests.start_call()
        call_id, by_index = self._schedule.call_id, {shard.index: (shard, snapshot) for shard in shards}
        aggregator = self._make_aggregator(call_id, snapshot)
        return self._run(CallState(call_id, work, by_index, len(shards), aggregator=aggregator))

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        raise NotImplementedError("leaders compute units of shards: a stream has none")

    @override
    def recompute(self, result: Result) -> None:
        self.counts["retries"] += 1
        self._call.num_missing += 1
        shard, unit = self._call.shards[result.shard][0], single_unit(result.shard)
        self._units[unit], self._excluded[result.shard] = [shard], result.worker
        self._schedule.requeue(as_shard(unit, [shard]), exclude=None)

    @override
    def _make_assigner(self, cluster: Cluster, stack: contextlib.ExitStack, update_bytes: int) -> Assigner:
        hosts, large = num_nodes(), update_bytes >= LARGE_UPDATE_BYTES
        count = num_leaders(self._config.leaders, self._config.max_workers, hosts, large=large)
        self._leader_group = LeaderGroup(self._config, count, cluster, self._worker_group.calls)
        stack.callback(self._leader_group.close)
        self._following = Following(self._schedule, self._worker_group, self._leader_group)
        self._leader_supervisor = Supervisor(
            self._config.tolerance,
            self._leader_group,
            OfLeaders(self._following, self._schedule),
            self,
            on_worker_lost=super()._on_worker_lost,
            on_object_lost=self._drop_snapshot_ref,
            leads=True,
        )
        return OfWorkers(self._following)

    @override
    def _create_actors(self) -> None:
        super()._create_actors()  # first: a run waits for its workers
        for leader in self._leader_group.workers:
            self._leader_group.create(leader)

    @override
    def _make_schedule(self, *, speculate: bool) -> Schedule:
        return Schedule(speculate=speculate, leads=True)

    @override
    def _check(self) -> None:
        self._supervisor.check()
        self._leader_supervisor.check()

    @override
    def _submit_assigned(self, call: CallState, now: float) -> None:
        pack = self._worker_group.requests.shard
        for assignment in self._schedule.assign(now):
            unit, slot = assignment.shard.index, assignment.worker
            leader = self._leader_group.workers[leader_of(slot)]
            members = self._units[unit]
            request = UnitRequest(
                (call.call_id, unit),
                call.work.name,
                tuple(map(pack, members)),
                tuple(map(pack, self._upcoming.pop(unit, ()))),
                {shard.index: encode_params(shard.carry) for shard in members if shard.carry},
                {shard.index: self._excluded[shard.index] for shard in members if shard.index in self._excluded},
                leader.reader,
            )
            state = call.shards[members[0].index][1]
            snapshot = self._put_snapshot(state, call.work)
            source = self._source(leader, snapshot) if is_large(state.params) else None
            # A sum with a part of a unit is none of the server's: the last unit may be reported by itself.
            split_grad = call.aggregator is not None and len(members) == FAN_IN
            self._leader_group.submit_unit(leader, slot, request, snapshot, source, split_grad=split_grad)
        self.counts["copies"] = self._schedule.copies

    def _source(self, leader: WorkerHandle, snapshot: Any) -> WorkerHandle | None:
        """The leader whose node sends the snapshot to this one's; None if the driver's does."""
        if self._relays is None or self._relays[0] is not snapshot:
            self._relays = snapshot, Relays(ray.get_runtime_context().get_node_id())
        index = self._relays[1].source(leader.index, leader.node_id)
        source = None if index is None else self._leader_group.workers[index]
        return source if source is not None and source.actor is not None else None

    def _make_aggregator(self, call_id: int, snapshot: Snapshot) -> Aggregator | None:
        """Sums units by groups near the leaders, where that saves bytes."""
        nodes = {leader.node_id for leader in self._leader_group.active()}
        if not aggregates_on_nodes(self._config.tolerance.aggregate, len(nodes), snapshot.params):
            return None
        groups = ReportGroups.of(unit for unit, members in self._units.items() if len(members) == FAN_IN)
        return Aggregator(call_id, groups, self._leader_group, self._requeue, self._on_gradient_lost, size=FAN_IN)

    @override
    def _handle_answer(self, call: RemoteCall, value: Any) -> list[Result]:
        leader = call.worker
        if not self._is_leader(leader):
            return super()._handle_answer(call, value)
        if call.kind in START_CALLS:
            if self._leader_group.advance(call, value):
                leader.enter("ready", time.monotonic())
                self._leader_group.watch(leader)
                self._following.place()
        elif call.kind == "events":
            self._leader_group.watch(leader)
            for event in value:
                self._handle_event(event)
        elif call.kind == "unit" and call.key is not None:
            return self._handle_unit(call, call.key, value)
        elif call.kind == "sum" and call.key is not None and self._call.aggregator is not None:
            return self._call.aggregator.add_sum(call.key, value)
        return []

    def _handle_unit(self, call: RemoteCall, key: ShardKey, results: list[ResultWire] | None) -> list[Result]:
        leader, computed = call.worker, results is not None
        is_first, others = self._schedule.finished(call.slot, key, time.monotonic(), computed=computed)
        if results is not None:
            leader.failures.clear()
        for other in {leader_of(other) for other in others} - {leader.index}:
            self._leader_group.cancel_unit(self._leader_group.workers[other], key)
        if results is None or not is_first:
            return []
        for result in results:
            self._worker_group.workers[result.worker].failures.clear()
        is_sum = len(results) == 1 < len(self._units[key[1]])
        self.counts["groups"] += is_sum
        aggregator = self._call.aggregator
        if aggregator is None or key[1] < 0:
            return [decode_result(result) for result in results]
        if is_sum and call.grad is not None:
            return aggregator.add_report(leader, results[0], call.grad)
        waited = [] if is_sum else aggregator.dissolve(results[0].shard)
        return [*waited, *map(decode_result, results)]

    def _handle_event(self, event: LeaderEvent) -> None:
        worker = self._worker_group.workers[event.worker]
        location = worker.ranks[0].location if worker.actor is not None else None
        if location is None or location.pid != event.process:
            return  # it has been replaced
        if event.failure is None:
            worker.leader = None
            self._following.place()
            return
        failure = event.failure
        error = None if event.cause is None else task_error(failure, event.cause)
        self._supervisor.handle_failure(worker, failure, error, event.key)

    @override
    def _handle_error(self, call: RemoteCall, error: RayError, running: ShardKey | None) -> None:
        leader = call.worker
        if not self._is_leader(leader):
            super()._handle_error(call, error, running)
            return
        failure = failure_of(leader.index, error)
        if call.kind == "sum" and call.key is not None and self._call.aggregator is not None:
            self._call.aggregator.retry(call.key)
            if failure.kind == "object_lost":
                return
        elif failure.kind == "object_lost" and call.key is not None:
            self._drop_snapshot_ref()
            self._schedule.failed(call.slot, call.key, time.monotonic(), None)
            return
        if isinstance(error, RayTaskError):
            raise driver_error(error.cause, f"leader {leader.index}", plain_text(error))
        self._leader_supervisor.handle_failure(leader, failure, error, None)

    @override
    def _on_worker_lost(self, worker: int) -> None:
        pass  # leaders add, not workers

    @override
    def _requeue(self, shard: int) -> None:
        self.counts["retries"] += 1
        unit = shard // FAN_IN
        self._schedule.requeue(as_shard(unit, self._units[unit]), exclude=None)

    @override
    def _on_gradient_lost(self, worker: WorkerHandle, shard: int, error: RayError) -> None:
        self._requeue(shard)

    @override
    def _on_started(self, worker: WorkerHandle) -> None:
        worker.enter("ready", time.monotonic())
        if self._is_ready:
            self.record(Incident("joined", worker.index, worker.node, None, "is ready"))
        self._following.place()

    def _is_leader(self, handle: WorkerHandle) -> bool:
        leaders = self._leader_group.workers
        return handle.index < len(leaders) and leaders[handle.index] is handle
