"""The executor over Ray actors.

    pending shards --> worker 0: [running, queued]      a worker has one shard queued ahead, so that it never
                       worker 1: [running, queued]      waits for the driver
                       ...
    the heads (first calls) of all workers are waited for together; each has a deadline

Failures are decided on by `distmeta.runtime.decisions` and acted on here, in `_failed`. A worker that died or hangs is
replaced in its own place of the placement group; no shard waits for the replacement if another worker has room.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distmeta.config import RuntimeConfig
from distmeta.errors import WorkerError
from distmeta.runtime.cluster import connect, place
from distmeta.runtime.decisions import (
    Abort,
    Failure,
    FailureKind,
    Policy,
    likely_next,
    loses_worker,
    next_shard,
    on_failure,
    surfaced,
)
from distmeta.runtime.executor import Executor, Recipe, Result
from distmeta.runtime.wire import ResultWire, decode_value, encode_snapshot
from distmeta.runtime.worker import LazyWorker
from distmeta.types import Shard, Snapshot

PLACEMENT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 180.0
FETCH_TIMEOUT_S = 60.0
POLL_S = 1.0
CALLS_AHEAD = 2

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class _Call:
    """What a worker was asked to do: `shard` of the map call `epoch`, or to start."""

    ref: Any
    shard: Shard | None
    epoch: int


@dataclass
class _Slot:
    """A worker's place. `since` is when its first call became the first (monotonic seconds)."""

    index: int
    actor: Any
    since: float
    calls: deque[_Call] = field(default_factory=deque)
    started: bool = False


@dataclass
class _Job:
    """One call of `map`."""

    epoch: int
    kind: str
    snapshot: Snapshot
    upcoming: Sequence[Shard]
    pending: list[Shard]
    missing: int
    failures: dict[int, list[Failure]] = field(default_factory=dict)
    excluded: dict[int, int] = field(default_factory=dict)


class RayExecutor(Executor):
    """Runs shards on Ray actors, spread over the cluster.

    Args:
        config: Workers, their resources, deadlines and retries.
        recipe: The program. It is built while the constructor's caller goes on; what it raises, `map` raises.
        placement_timeout_s: How long the cluster may take to find room for the workers (it may be growing).

    Raises:
        UserError: No cluster at the address, or no room for the workers.
    """

    def __init__(
        self, config: RuntimeConfig, recipe: Recipe, *, placement_timeout_s: float = PLACEMENT_TIMEOUT_S
    ) -> None:
        self.num_workers = config.max_workers
        self.restarts = 0
        self.retries = 0
        self._config, self._recipe = config, recipe
        self._policy = Policy(config.max_shard_retries)
        self._epoch = 0
        self._serial = 0
        self._sent: tuple[Snapshot, Any] | None = None
        self._start_failures: dict[int, list[Failure]] = {}
        self._slots: list[_Slot] = []
        with contextlib.ExitStack() as stack:
            self._cluster = connect(config)
            stack.callback(self._cluster.leave)
            self._group = place(config, self._cluster, placement_timeout_s)
            stack.callback(remove_placement_group, self._group)
            stack.callback(self._end_workers)
            for index in range(config.max_workers):
                self._slots.append(self._spawn(index))
            self._stack = stack.pop_all()

    def ready(self) -> None:
        """See `Executor.ready`."""
        nothing = _Job(self._epoch, "", Snapshot(-1, {}), (), [], 0)
        while not all(slot.started for slot in self._slots):
            slot = self._first_ready()
            if slot is None:
                self._end_overdue(nothing)
            else:
                self._collect(slot, nothing)

    def map(
        self, kind: str, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        self._epoch += 1
        job = _Job(self._epoch, kind, snapshot, upcoming, list(shards), len(shards))
        while job.missing:
            if job.epoch != self._epoch:
                raise RuntimeError("map was called again before this call's results were read")
            self._dispatch(job)
            slot = self._first_ready()
            if slot is None:
                self._end_overdue(job)
            elif (result := self._collect(slot, job)) is not None:
                job.missing -= 1
                yield result

    def close(self) -> None:
        """See `Executor.close`. A cluster that was there before goes on."""
        self._stack.close()

    def _spawn(self, index: int) -> _Slot:
        """Start a worker; its program is built before its first shard, whoever waits for it meanwhile."""
        environment = self._cluster.worker_environment(self._config.threads_per_worker)
        actor: Any = (
            ray.remote(LazyWorker)
            .options(
                num_cpus=self._config.cpus_per_worker,
                num_gpus=self._config.gpus_per_worker,
                max_restarts=0,
                max_concurrency=1,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index),
                runtime_env={"env_vars": environment} if environment else None,
            )
            .remote()
        )
        slot = _Slot(index, actor, since=time.monotonic())
        ref = actor.start.remote(index, self._recipe, self._config.threads_per_worker)
        slot.calls.append(_Call(ref, None, self._epoch))
        return slot

    def _dispatch(self, job: _Job) -> None:
        """Hand out shards: to idle workers first, then one ahead to each worker that has one of its own left."""
        for calls, steal in ((0, False), (0, True), *((ahead, False) for ahead in range(1, CALLS_AHEAD))):
            for slot in self._slots:
                if not slot.started or len(slot.calls) != calls:
                    continue
                shard = next_shard(job.pending, slot.index, self.num_workers, job.excluded, steal=steal)
                if shard is not None:
                    self._submit(slot, shard, job)

    def _submit(self, slot: _Slot, shard: Shard, job: _Job) -> None:
        job.pending.remove(shard)
        following = likely_next(shard, job.pending, job.upcoming, slot.index, self.num_workers)
        if not slot.calls:
            slot.since = time.monotonic()
        ref = slot.actor.run.remote(job.kind, self._snapshot_ref(job.snapshot), shard, following)
        slot.calls.append(_Call(ref, shard, job.epoch))

    def _snapshot_ref(self, snapshot: Snapshot) -> Any:
        """The snapshot in the object store, put there once; the one before is let go."""
        if self._sent is None or not _same(self._sent[0], snapshot):
            self._serial += 1
            self._sent = snapshot, ray.put(encode_snapshot(snapshot, self._serial))
        return self._sent[1]

    def _first_ready(self) -> _Slot | None:
        """A worker whose first call has an answer; None if a deadline passed, or a short while, without one."""
        heads = {slot.calls[0].ref: slot for slot in self._slots if slot.calls}
        nearest = min(self._deadline(slot) for slot in heads.values())
        timeout_s = min(max(nearest - time.monotonic(), 0.0), POLL_S)
        ready, _ = ray.wait(list(heads), timeout=timeout_s)
        return heads[ready[0]] if ready else None

    def _deadline(self, slot: _Slot) -> float:
        starting = slot.calls[0].shard is None
        return slot.since + (START_TIMEOUT_S if starting else self._config.shard_timeout_s)

    def _collect(self, slot: _Slot, job: _Job) -> Result | None:
        """Take the answer to a worker's first call; None if it is no result of this job."""
        call = slot.calls.popleft()
        slot.since = time.monotonic()
        try:
            value: ResultWire | None = ray.get(call.ref, timeout=FETCH_TIMEOUT_S)
        except RayError as error:
            self._failed(slot, call, error, job)
            return None
        if value is None:
            slot.started = True
            self._start_failures.pop(slot.index, None)
        if value is None or call.epoch != job.epoch:
            return None
        return Result(value.shard, decode_value(value.value), value.worker, value.data_wait_s, value.compute_s)

    def _end_overdue(self, job: _Job) -> None:
        """Give up workers that did not answer in time."""
        now = time.monotonic()
        for slot in list(self._slots):
            if slot.calls and self._deadline(slot) <= now:
                self._failed(slot, slot.calls.popleft(), None, job)

    def _failed(self, slot: _Slot, call: _Call, error: RayError | None, job: _Job) -> None:
        """Act on a failed call: replace the worker, hand the shard out again, or raise. No error means no answer."""
        kind = _kind(error)
        if loses_worker(kind):
            self._replace(slot, job)
        if call.shard is None:
            failures = self._start_failures.setdefault(slot.index, [])
        elif call.epoch == job.epoch:
            failures = job.failures.setdefault(call.shard.index, [])
        else:
            return  # a shard of an earlier call of `map`, whose reader has left
        failures.append(Failure(kind, slot.index, self._detail(kind, call, error)))
        decision = on_failure(call.shard, failures, self._policy)
        if isinstance(decision, Abort):
            if isinstance(error, RayTaskError) and kind == "program_raised":
                place = f"shard {call.shard.index} on worker {slot.index}" if call.shard else f"worker {slot.index}"
                raise surfaced(error.cause, place, _COLOURS.sub("", str(error))) from error
            raise WorkerError(decision.reason) from error
        if kind == "object_lost":
            self._sent = None
        if call.shard is not None:
            self.retries += 1
            job.pending.insert(0, call.shard)
            if decision.exclude is not None:
                job.excluded[call.shard.index] = decision.exclude

    def _replace(self, slot: _Slot, job: _Job) -> None:
        """End a worker, give back the shards that were queued on it, and start another in its place."""
        ray.kill(slot.actor, no_restart=True)
        self.restarts += 1
        job.pending[:0] = [call.shard for call in slot.calls if call.shard is not None and call.epoch == job.epoch]
        self._slots[slot.index] = self._spawn(slot.index)

    def _detail(self, kind: FailureKind, call: _Call, error: RayError | None) -> str:
        if kind == "timed_out" and call.shard is None:
            return f"did not start within {START_TIMEOUT_S:g} s"
        if kind == "timed_out":
            return f"no answer within {self._config.shard_timeout_s:g} s (runtime.shard_timeout_s)"
        if kind == "worker_died":
            return f"its process ended ({type(error).__name__})"
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__

    def _end_workers(self) -> None:
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots.clear()
        self._sent = None


def _kind(error: RayError | None) -> FailureKind:
    if error is None:
        return "timed_out"
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (ObjectLostError, GetTimeoutError)):
        return "object_lost"
    return "program_raised" if isinstance(error, RayTaskError) else "worker_died"


def _same(one: Snapshot, other: Snapshot) -> bool:
    """True if both are of one version and hold the same tensors (an average has the version of what it averages)."""
    return (
        one.version == other.version
        and one.params.keys() == other.params.keys()
        and all(tensor is other.params[name] for name, tensor in one.params.items())
    )
