"""The executor over Ray actors.

    Schedule: who computes what (pure)      hand_out -> orders -> Crew -> actors
    Crew:     the actors and their answers  answers -> Schedule.finished -> results
    decisions: what failures mean (pure)    acted on here, in `_failed` and `_lost`

The driver waits for the answers of all workers together. Between them it looks after the workers: signs of life,
deadlines, machines that will go, those that have come.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from distmeta.config import RuntimeConfig
from distmeta.errors import WorkerError
from distmeta.runtime.cluster import await_room, connect, no_room
from distmeta.runtime.crew import Answer, Crew, Member
from distmeta.runtime.decisions import (
    Abort,
    Failure,
    LeaveOut,
    Policy,
    loses_worker,
    on_failure,
    on_worker_failure,
)
from distmeta.runtime.executor import Executor, Feed, Incident, Recipe, Result
from distmeta.runtime.groups import Groups, Held
from distmeta.runtime.ray_errors import failure_of, final
from distmeta.runtime.schedule import Key, Schedule
from distmeta.runtime.wire import ReportWire, ResultWire, decode_value, encode_snapshot, join
from distmeta.runtime.worker import Compression
from distmeta.types import Report, Shard, Snapshot

PLACEMENT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 180.0
NOBODY_TIMEOUT_S = 600.0
FETCH_TIMEOUT_S = 30.0
POLL_S = 0.5
LOOK_EVERY_S = 0.5
ADD_FROM_BYTES = 1 << 20
"""Size of an update from which adding near the workers is worth a call more."""
NODES_EVERY_S = 2.0


@dataclass
class _Job:
    """One call of `map` or `stream`: shards by index with what they are computed from, and how they failed.

    `groups`: reports are added near their workers before they come here.
    """

    epoch: int
    kind: str
    shards: dict[int, tuple[Shard, Snapshot]]
    missing: int
    feed: Feed | None = None
    failures: dict[int, list[Failure]] = field(default_factory=dict)
    groups: Groups | None = None
    version: int = -1


class RayExecutor(Executor):
    """Runs shards on Ray actors, spread over the cluster.

    Args:
        config: Workers, their resources, deadlines and retries.
        recipe: The program. It is built while the constructor's caller goes on; what it raises, `map` raises.
        compression: How updates are rounded on the way (`outer.compression`).
        placement_timeout_s: How long the cluster may take to find room for the workers (it may be growing).

    Raises:
        UserError: No cluster at the address, or no room for the workers.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        recipe: Recipe,
        compression: Compression = "none",
        *,
        placement_timeout_s: float = PLACEMENT_TIMEOUT_S,
    ) -> None:
        super().__init__()
        self._config, self._placement_timeout_s = config, placement_timeout_s
        self._policy = Policy(config.max_shard_retries, config.max_worker_failures)
        self._schedule = Schedule(speculate=config.speculate)
        self._job = _Job(0, "", {}, 0)
        self._serial = 0
        self._sent: tuple[Snapshot, Any] | None = None
        self._looked = self._looked_at_nodes = self._nobody_since = time.monotonic()
        self._begun = False
        with contextlib.ExitStack() as stack:
            cluster = connect(config)
            stack.callback(cluster.leave)
            await_room(config, cluster, placement_timeout_s)
            self._crew = Crew(config, recipe, compression, cluster)
            stack.callback(self._crew.close)
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
        while not self._begun:
            self._take(self._crew.answers(POLL_S))
            at_hand = sum(member.state in ("starting", "ready") for member in self._crew.members)
            if at_hand < self._config.min_workers and time.monotonic() - since > self._placement_timeout_s:
                raise no_room(self._config)
            left = sum(member.state != "out" for member in self._crew.members)
            self._begun = self.num_workers >= min(self._config.min_workers, left)

    def map(
        self, kind: str, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        self._schedule.begin(kind, shards, upcoming)
        named = {shard.index: (shard, snapshot) for shard in shards}
        groups = Groups.of(named) if self._adds_near_workers(snapshot) else None
        return self._work(_Job(self._schedule.epoch, kind, named, len(shards), groups=groups, version=snapshot.version))

    def stream(self, kind: str, feed: Feed) -> Iterator[Result]:
        """See `Executor.stream`."""
        self._schedule.begin(kind, (), stream=True)
        return self._work(_Job(self._schedule.epoch, kind, {}, 0, feed))

    def again(self, result: Result) -> None:
        """See `Executor.again`."""
        self.counts["retries"] += 1
        self._job.missing += 1
        self._schedule.again(self._job.shards[result.shard][0], exclude=result.worker)

    def close(self) -> None:
        """See `Executor.close`. A cluster that was there before goes on."""
        self._stack.close()

    def _work(self, job: _Job) -> Iterator[Result]:
        self._job = job
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
                self._crew.order(member, order, key, job.kind, snapshot, split=job.groups is not None)
            self.counts["copies"] = self._schedule.copies
            timeout_s = max(0.0, min(POLL_S, self._schedule.wake(now) - now))
            for result in self._take(self._crew.answers(timeout_s)):
                job.missing -= result.value.count if isinstance(result.value, Report) else 1
                yield result

    def _feed(self, job: _Job) -> None:
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
            self._sent = snapshot, ray.put(encode_snapshot(snapshot, self._serial))
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
                self._failed(answer.member, failure, error, key)
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._look_after()
        return results

    def _answered(self, answer: Answer) -> list[Result]:
        value = ray.get(answer.ref, timeout=FETCH_TIMEOUT_S)
        member = answer.member
        if answer.tag == "hello":
            member.where, member.state, member.since = value, "starting", time.monotonic()
        elif answer.tag == "started":
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
        if self._config.aggregate != "auto":
            return self._config.aggregate == "node"
        nodes = {member.where.node for member in self._crew.at_work() if member.where}
        return len(nodes) > 1 and sum(tensor.nbytes for tensor in snapshot.params.values()) >= ADD_FROM_BYTES

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
                self._note(member, failure, (self._job.epoch, held.result.shard), "retry")
                self._schedule.again(self._job.shards[held.result.shard][0], exclude=None)
        return results

    def _joined(self, member: Member) -> None:
        member.state, member.since = "ready", time.monotonic()
        self._schedule.join(member.index, member.where.node if member.where else "")
        if self._begun:
            self.record(Incident("joined", member.index, member.node, None, "is at work"))

    def _look_after(self) -> None:
        """Signs of life and deadlines; workers whose rest is over; machines that will go."""
        now = time.monotonic()
        self._crew.feel_pulses()
        self._crew.wake()
        for member in self._crew.members:
            if self._crew.silent(member):
                limit = f"{self._config.heartbeat_timeout_s:g} s (runtime.heartbeat_timeout_s)"
                self._failed(member, Failure("silent", member.index, f"no sign of life for {limit}"), None, None)
            elif self._crew.overdue(member, self._config.shard_timeout_s):
                limit = f"{self._config.shard_timeout_s:g} s (runtime.shard_timeout_s)"
                failure = Failure("timed_out", member.index, f"no answer within {limit}")
                self._failed(member, failure, None, member.calls[0])
            elif member.state == "starting" and now - member.since > START_TIMEOUT_S:
                failure = Failure("timed_out", member.index, f"did not start within {START_TIMEOUT_S:g} s")
                self._failed(member, failure, None, None)
        if now - self._looked_at_nodes >= NODES_EVERY_S:
            self._looked_at_nodes = now
            self._leave_nodes()
        if self._crew.at_work():
            self._nobody_since = now
        elif now - self._nobody_since > NOBODY_TIMEOUT_S:
            raise WorkerError(f"no worker has been at work for {NOBODY_TIMEOUT_S:g} s")

    def _leave_nodes(self) -> None:
        """Workers on machines that will go finish their shard; then they are started anew elsewhere."""
        going = self._crew.nodes_going()
        for member in self._crew.members:
            if member.state == "ready" and member.where is not None and member.where.node in going:
                member.state = "leaving"
                for key in self._schedule.retire(member.index):
                    self._crew.forget(member, key)
                self.record(Incident("left", member.index, member.node, None, "its machine will go"))
            if member.state == "leaving" and not self._schedule.busy(member.index):
                self._schedule.leave(member.index)
                self._crew.end(member)
                self._crew.rest(member, 0.0)

    def _failed(self, member: Member, failure: Failure, error: RayError | None, key: Key | None) -> None:
        """Act on a failure: hand the shard out again or raise; replace the worker, let it rest, or leave it out."""
        others = sum(other is not member for other in self._crew.at_work())
        ours = key if key is not None and key[0] == self._job.epoch else None
        if ours is not None:
            failures = self._job.failures.setdefault(ours[1], [])
            failures.append(failure)
            decision = on_failure(ours[1], failures, self._policy, others)
            if isinstance(decision, Abort):
                self._note(member, failure, ours, "abort")
                raise final(decision.reason, error, f"shard {ours[1]} on worker {member.index}")
            self._schedule.failed(member.index, ours, time.monotonic(), decision.exclude)
            self.counts["retries"] += 1
        if loses_worker(failure.kind):
            self._lost(member, failure, error, ours, others)
        else:
            self._sent = None  # whatever Ray lost, it is put there anew
            self._note(member, failure, ours, "retry")

    def _lost(self, member: Member, failure: Failure, error: RayError | None, key: Key | None, others: int) -> None:
        """Act on the loss of a worker. What was queued on it is handed out again."""
        self._schedule.leave(member.index)
        self._crew.end(member, by_force=failure.kind in ("silent", "timed_out"))
        for group in self._job.groups.added_by(member.index) if self._job.groups else ():
            self._add_again(group)
        member.failures.append(failure)
        fate = on_worker_failure(member.failures, self._policy, others)
        if isinstance(fate, Abort):
            self._note(member, failure, key, "abort")
            raise final(fate.reason, error, f"worker {member.index}")
        if isinstance(fate, LeaveOut):
            member.state = "out"
            self._note(member, failure, key, "left out")
            self.record(Incident("left_out", member.index, member.node, None, fate.reason, "", failure.traceback))
            return
        self.counts["restarts"] += 1
        self._note(member, failure, key, "restart")
        self._crew.rest(member, fate.after_s)

    def _note(self, member: Member, failure: Failure, key: Key | None, outcome: str) -> None:
        shard = None if key is None else key[1]
        self.record(
            Incident(failure.kind, member.index, member.node, shard, failure.detail, outcome, failure.traceback)
        )


def _result(value: ResultWire) -> Result:
    return Result(value.shard, decode_value(value.value), value.worker, value.data_wait_s, value.compute_s)
