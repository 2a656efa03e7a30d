"""The executor over Ray actors.

    Schedule: who computes what (pure)      hand_out -> orders -> Crew -> actors
    Crew:     the actors and their answers  answers -> Schedule.finished -> results
    Care:     signs of life, failures       acts on decisions (pure)
    Groups:   reports that are added near their workers before they come here

The driver waits for the answers of all workers together, and looks after the workers between them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distmeta.config import RuntimeConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Report, Shard, Snapshot, Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Executor, Feed, Incident, Recipe, Result
from distmeta.runtime.memory import map_object_store
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.schedule import Key, Schedule
from distmeta.runtime.ray.actor import LARGE_UPDATE
from distmeta.runtime.ray.cluster import OBJECT_STORE_BYTES, await_room, connect, no_room
from distmeta.runtime.ray.errors import failure_of
from distmeta.runtime.ray.groups import Groups, Held
from distmeta.runtime.ray.job import Job
from distmeta.runtime.ray.supervisor import START_TIMEOUT_S, Care
from distmeta.runtime.ray.workers import Answer, Crew, Member
from distmeta.runtime.wire import ReportWire, ResultWire, decode_value, encode_snapshot, join

PLACEMENT_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 30.0
POLL_S = 0.5
STEPS_IN_STORE = 4
"""Steps whose updates the object store of a cluster started here has room for."""


class RayExecutor(Executor):
    """Runs shards on Ray actors, spread over the cluster.

    Args:
        config: Workers, their resources, deadlines and retries.
        recipe: The program. It is built while the constructor's caller goes on; what it raises, `map` raises.
        compression: How updates are rounded on the way (`outer.compression`).
        update_bytes: Size of the parameters, and so of an update.
        placement_timeout_s: How long the cluster may take to find room for the workers (it may be growing).

    Raises:
        UserError: No cluster at the address, or no room for the workers.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        recipe: Recipe,
        compression: Compression = "none",
        update_bytes: int = 0,
        *,
        placement_timeout_s: float = PLACEMENT_TIMEOUT_S,
    ) -> None:
        super().__init__()
        self._config, self._placement_timeout_s = config, placement_timeout_s
        self._schedule = Schedule(speculate=config.tolerance.speculate)
        self._job = Job(0, Work(""), {}, 0)
        self._serial = 0
        self._sent: tuple[Snapshot, Any] | None = None
        self._begun = False
        with contextlib.ExitStack() as stack:
            cluster = connect(config, max(OBJECT_STORE_BYTES, STEPS_IN_STORE * config.max_workers * update_bytes))
            stack.callback(cluster.leave)
            self._owns_cluster = cluster.started
            await_room(config, cluster, placement_timeout_s)
            self._crew = Crew(config, recipe, compression, cluster)
            stack.callback(self._crew.close)
            self._care = Care(config, self._crew, self._schedule, self, self._left_by, self._send_anew)
            for member in self._crew.members:
                self._crew.spawn(member)
            self._stack = stack.pop_all()

    @property
    def num_workers(self) -> int:
        """See `Executor.num_workers`."""
        return len(self._crew.at_work())

    def ready(self) -> None:
        """See `Executor.ready`."""
        since = time.monotonic()
        # In a cluster of our own nobody else takes room: whoever is missing is only slow to start.
        patience_s = START_TIMEOUT_S if self._owns_cluster else self._placement_timeout_s
        while not self._begun:
            self._take(self._crew.answers(POLL_S))
            at_hand = sum(member.state in ("starting", "ready") for member in self._crew.members)
            if at_hand < self._config.min_workers and time.monotonic() - since > patience_s:
                if self._owns_cluster:
                    raise WorkerError(f"{self._config.min_workers - at_hand} workers did not start in {patience_s:g} s")
                raise no_room(self._config)
            left = sum(member.state != "out" for member in self._crew.members)
            self._begun = self.num_workers >= min(self._config.min_workers, left)

    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        self._schedule.begin(work, shards, upcoming)
        named = {shard.index: (shard, snapshot) for shard in shards}
        groups = Groups.of(named) if self._adds_near_workers(snapshot) else None
        return self._work(Job(self._schedule.epoch, work, named, len(shards), groups=groups, version=snapshot.version))

    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        """See `Executor.stream`."""
        self._schedule.begin(work, (), stream=True)
        return self._work(Job(self._schedule.epoch, work, {}, 0, feed))

    def recompute(self, result: Result) -> None:
        """See `Executor.recompute`."""
        self.counts["retries"] += 1
        self._job.missing += 1
        self._schedule.again(self._job.shards[result.shard][0], exclude=result.worker)

    def close(self) -> None:
        """See `Executor.close`. A cluster that was there before goes on."""
        self._stack.close()

    def _work(self, job: Job) -> Iterator[Result]:
        self._job = self._care.job = job
        while True:
            if self._schedule.epoch != job.epoch:
                raise RuntimeError("another call was begun before this one's results were read")
            self._feed(job)
            if not job.missing:
                return
            now = time.monotonic()
            for order in self._schedule.hand_out(now):
                snapshot = self._snapshot_ref(job.shards[order.shard.index][1])
                member = self._crew.members[order.worker]
                key = job.epoch, order.shard.index
                self._crew.order(member, order, key, job.work, snapshot, split=job.groups is not None)
            self.counts["copies"] = self._schedule.copies
            timeout_s = max(0.0, min(POLL_S, self._schedule.wake(now) - now))
            for result in self._take(self._crew.answers(timeout_s)):
                job.missing -= result.value.count if isinstance(result.value, Report) else 1
                yield result

    def _feed(self, job: Job) -> None:
        """Fetch a shard for each worker that has nothing to do."""
        while job.feed is not None and self._schedule.wants():
            fed = job.feed()
            if fed is None:
                job.feed = None
                return
            snapshot, shard = fed
            job.shards[shard.index] = (shard, snapshot)
            job.missing += 1
            self._schedule.add(shard)

    def _snapshot_ref(self, snapshot: Snapshot) -> Any:
        """The snapshot in the object store, put there once; the one before is let go."""
        if self._sent is None or self._sent[0] is not snapshot:
            self._serial += 1
            wire = encode_snapshot(snapshot, self._serial)
            self._sent = snapshot, ray.put(wire)
            if self._serial == 1 and wire.params.num_bytes >= LARGE_UPDATE:
                map_object_store()
        return self._sent[1]

    def _take(self, answers: Sequence[Answer]) -> list[Result]:
        """Act on answers, then look after the workers. Returns the first report of each shard of the present job."""
        results: list[Result] = []
        for answer in answers:
            if not answer.current:
                continue  # the worker failed at an earlier one of these
            running = self._crew.settle(answer)
            try:
                results += self._answered(answer)
            except RayError as error:
                failure = failure_of(answer.member.index, error)
                # A worker that dies fails at all its calls; the fault is that of the shard it was at.
                key = answer.key if isinstance(error, RayTaskError) or failure.kind == "object_lost" else running
                if answer.group is not None:
                    self._add_again(answer.group)
                self._care.failed(answer.member, failure, error, key)
        self._care.look_after()
        return results

    def _answered(self, answer: Answer) -> list[Result]:
        value = ray.get(answer.ref, timeout=FETCH_TIMEOUT_S)
        member = answer.member
        if answer.tag == "hello" and member.state == "waiting":
            member.where, member.state, member.since = value, "starting", time.monotonic()
        elif answer.tag == "started":
            member.where = value
            self._joined(member)
        elif answer.group is not None:
            return self._added(answer.group, value)
        elif answer.key is not None:
            return self._reported(member, answer.key, value, answer.grad)
        return []

    def _reported(self, member: Member, key: Key, value: ResultWire | None, grad: Any) -> list[Result]:
        first, others = self._schedule.finished(member.index, key, time.monotonic(), computed=value is not None)
        if value is not None:
            member.failures.clear()
        for other in others:
            self._crew.forget(self._crew.members[other], key)
        if not first or value is None:
            return []
        groups = self._job.groups
        if groups is None or not isinstance(value.value, ReportWire):
            return [_result(value)]
        held = Held(value, grad, member.where.node if member.where else "")
        if not value.value.finite:
            return self._fetched([*groups.open(value.shard), held])
        if groups.is_open(value.shard):
            return self._fetched([held])
        complete = groups.hold(value.shard, held)
        if complete is not None:
            self._add(groups, complete)
        return []

    def _adds_near_workers(self, snapshot: Snapshot) -> bool:
        """Whether updates are added on their own nodes first: where that saves much on the way."""
        if self._config.tolerance.aggregate != "auto":
            return self._config.tolerance.aggregate == "node"
        nodes = {member.where.node for member in self._crew.at_work() if member.where}
        return len(nodes) > 1 and sum(tensor.nbytes for tensor in snapshot.params.values()) >= LARGE_UPDATE

    def _add(self, groups: Groups, group: int) -> None:
        """Ask a worker to add a group: one where most of it lies, if there is one."""
        home, at_work = groups.home(group), self._crew.at_work()
        near = [member for member in at_work if member.where and member.where.node == home]
        adder = min(near or at_work, key=lambda member: (len(member.calls), member.index), default=None)
        if adder is None:
            self._recompute(groups, group)
            return
        groups.adding[group] = adder.index
        held = groups.members(group)
        self._crew.add(adder, group, [one.result.value for one in held], [one.grad for one in held])

    def _added(self, group: int, value: ReportWire) -> list[Result]:
        groups = self._job.groups
        if groups is None or group not in groups.adding or value.version != self._job.version:
            return []
        parts = [held.result for held in groups.take(group)]
        self.counts["groups"] += 1
        waits, computes = sum(one.data_wait_s for one in parts), sum(one.compute_s for one in parts)
        return [Result(parts[0].shard, decode_value(value), parts[0].worker, waits, computes)]

    def _add_again(self, group: int) -> None:
        """A sum has failed: with its worker, which another may replace, or for want of a part."""
        if self._job.groups is not None and group in self._job.groups.adding:
            self._recompute(self._job.groups, group)

    def _left_by(self, worker: int) -> None:
        """A worker is gone: so are the sums that it was asked for."""
        for group in self._job.groups.added_by(worker) if self._job.groups else ():
            self._add_again(group)

    def _send_anew(self) -> None:
        """Whatever Ray has lost, the snapshot is put there once more."""
        self._sent = None

    def _recompute(self, groups: Groups, group: int) -> None:
        """Hand out the shards of a group again, whose gradients may be lost with their node."""
        for held in groups.take(group):
            self.counts["retries"] += 1
            self._schedule.again(self._job.shards[held.result.shard][0], exclude=None)

    def _fetched(self, reports: Sequence[Held]) -> list[Result]:
        """Results with their gradients; those whose gradient is lost are computed again."""
        results = []
        for held in reports:
            try:
                results.append(_result(join(held.result, ray.get(held.grad, timeout=FETCH_TIMEOUT_S))))
            except RayError as error:
                member = self._crew.members[held.result.worker]
                failure = Failure("object_lost", member.index, f"its gradient was lost ({type(error).__name__})")
                self._care.note(member, failure, (self._job.epoch, held.result.shard), "retry")
                self._schedule.again(self._job.shards[held.result.shard][0], exclude=None)
        return results

    def _joined(self, member: Member) -> None:
        member.state, member.since = "ready", time.monotonic()
        self._schedule.join(member.index, member.where.node if member.where else "")
        if self._begun:
            self.record(Incident("joined", member.index, member.node, None, "is at work"))


def _result(value: ResultWire) -> Result:
    return Result(value.shard, decode_value(value.value), value.worker, value.data_wait_s, value.compute_s)
