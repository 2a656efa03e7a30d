"""Watches the workers of a run and acts on their failures.

It watches heartbeats, deadlines, backoffs and nodes that are being drained. What to do about a failure is decided in
`distmeta.runtime.policy.decisions` and done here: retry a shard, restart or exclude a worker, end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ray.exceptions import RayError

from distmeta.config import ToleranceConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Work
from distmeta.runtime.executor import Executor, Incident
from distmeta.runtime.policy.decisions import (
    Abort,
    Exclude,
    Failure,
    FailureLimits,
    Retry,
    is_worker_failure,
    on_shard_failure,
    on_worker_failure,
)
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.call import CallState
from distmeta.runtime.ray.errors import abort_error
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import WorkerHandle

START_TIMEOUT_S = 180.0
NO_WORKERS_TIMEOUT_S = 600.0
CHECK_INTERVAL_S = 0.5
NODE_CHECK_INTERVAL_S = 2.0


class Assigner(Protocol):
    """What the supervisor tells of a worker to whoever hands shards to it: `Schedule`, or what stands for it."""

    def failed(self, worker: int, key: ShardKey, now: float, exclude: int | None) -> bool: ...

    def drain_worker(self, worker: int) -> list[ShardKey]: ...

    def is_busy(self, worker: int) -> bool: ...

    def remove_worker(self, worker: int) -> int: ...


class Supervisor:
    """Watches a worker group and acts on failures.

    Args:
        tolerance: Deadlines and failure limits.
        worker_group: The workers.
        schedule: Who computes what.
        executor: Where incidents are recorded and retries and restarts counted.
        on_worker_lost: Called with the index of a worker that was stopped after a failure.
        on_object_lost: Called when Ray has lost an object.
        clock: Monotonic seconds.
        leads: The group is of leaders: its incidents are `leader_lost`.

    Attributes:
        call: The present call.
    """

    def __init__(
        self,
        tolerance: ToleranceConfig,
        worker_group: WorkerGroup,
        schedule: Assigner,
        executor: Executor,
        on_worker_lost: Callable[[int], None],
        on_object_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        leads: bool = False,
    ) -> None:
        self._leads = leads
        self.call = CallState(0, Work(""))
        self._tolerance, self._worker_group, self._schedule = tolerance, worker_group, schedule
        self._executor, self._clock = executor, clock
        self._on_worker_lost, self._on_object_lost = on_worker_lost, on_object_lost
        self._limits = FailureLimits(tolerance.max_shard_retries, tolerance.max_worker_failures)
        self._last_check = self._last_node_check = self._last_active = clock()

    def check(self) -> None:
        """Check heartbeats and deadlines, start workers whose backoff is over, drain nodes.

        Raises:
            DistmetaError: The run cannot go on.
        """
        now = self._clock()
        if now - self._last_check < CHECK_INTERVAL_S:
            return
        self._last_check = now
        self._worker_group.send_heartbeats()
        self._worker_group.start_due()
        for worker in self._worker_group.workers:
            self._check_worker(worker, now)
        if now - self._last_node_check >= NODE_CHECK_INTERVAL_S:
            self._last_node_check = now
            self._drain_nodes()
        if self._worker_group.active():
            self._last_active = now
        elif now - self._last_active > NO_WORKERS_TIMEOUT_S:
            raise WorkerError(f"no worker has been active for {NO_WORKERS_TIMEOUT_S:g} s")

    def handle_failure(
        self,
        worker: WorkerHandle,
        failure: Failure,
        error: RayError | None,
        key: ShardKey | None,
        reported: bool = False,
    ) -> None:
        """Act on a failure: retry its shard, restart or exclude its worker, or raise.

        Args:
            worker: The worker that failed.
            failure: What failed.
            error: What Ray raised, if anything.
            key: The shard at which the worker failed; None if at none.
            reported: The shard had been reported, but its gradient is lost. The caller has it computed again.

        Raises:
            DistmetaError: The run ends: a shard or the last worker failed too often, or the program raised.
        """
        num_others = sum(other is not worker for other in self._worker_group.active())
        if key is not None and not self.call.contains(key):
            key = None
        if key is not None:
            retry = self._retry_or_raise(worker, failure, error, key, num_others)
            if not reported:
                self._schedule.failed(worker.index, key, self._clock(), retry.exclude)
            self._executor.counts["retries"] += 1
        if is_worker_failure(failure.kind):
            self._replace(worker, failure, error, key, num_others)
        else:
            self._on_object_lost()
            self._record_failure(worker, failure, key, "retry")

    def _check_worker(self, worker: WorkerHandle, now: float) -> None:
        silent = self._worker_group.silent_rank(worker)
        if silent is not None:
            limit = f"{self._tolerance.heartbeat_timeout_s:g} s (runtime.tolerance.heartbeat_timeout_s)"
            failure = Failure("silent", worker.index, f"{worker.name_of(silent)}no heartbeat for {limit}")
            self.handle_failure(worker, failure, None, None)
        elif self._worker_group.is_overdue(worker, self._tolerance.shard_timeout_s):
            limit = f"{self._tolerance.shard_timeout_s:g} s (runtime.tolerance.shard_timeout_s)"
            failure = Failure("timed_out", worker.index, f"no answer within {limit}")
            self.handle_failure(worker, failure, None, worker.queue[0])
        elif worker.state == "starting" and now - worker.state_since > START_TIMEOUT_S:
            delay = f": {worker.start_up.delay(now)}" if worker.start_up else ""
            failure = Failure("timed_out", worker.index, f"did not start within {START_TIMEOUT_S:g} s{delay}")
            self.handle_failure(worker, failure, None, None)

    def _drain_nodes(self) -> None:
        """Let workers on nodes that are being drained finish their shard, then restart them elsewhere."""
        draining = self._worker_group.draining_nodes()
        for worker in self._worker_group.workers:
            if worker.state == "ready" and worker.node_ids & draining:
                worker.state = "draining"
                for key in self._schedule.drain_worker(worker.index):
                    self._worker_group.cancel(worker, key)
                incident = Incident("left", worker.index, worker.node, None, "its node is being drained")
                self._executor.record(incident)
            if worker.state == "draining" and not self._schedule.is_busy(worker.index):
                self._schedule.remove_worker(worker.index)
                self._worker_group.stop(worker)
                self._worker_group.restart(worker, 0.0)

    def _retry_or_raise(
        self, worker: WorkerHandle, failure: Failure, error: RayError | None, key: ShardKey, num_others: int
    ) -> Retry:
        failures = self.call.failures.setdefault(key[1], [])
        failures.append(failure)
        decision = on_shard_failure(key[1], failures, self._limits, num_others)
        if isinstance(decision, Abort):
            self._record_failure(worker, failure, key, "abort")
            raise abort_error(decision.reason, error, f"shard {key[1]} on worker {worker.index}")
        return decision

    def _replace(
        self, worker: WorkerHandle, failure: Failure, error: RayError | None, key: ShardKey | None, num_others: int
    ) -> None:
        """Stop a worker that failed, then restart or exclude it. Its queued shards are assigned to others."""
        self._schedule.remove_worker(worker.index)
        # A rank that waits for another one in an exchange may not respond to Ray either.
        force = failure.kind in ("silent", "timed_out") or len(worker.ranks) > 1
        self._worker_group.stop(worker, force=force)
        self._on_worker_lost(worker.index)
        worker.failures.append(failure)
        decision = on_worker_failure(worker.failures, self._limits, num_others)
        if isinstance(decision, Abort):
            self._record_failure(worker, failure, key, "abort")
            raise abort_error(decision.reason, error, f"{'leader' if self._leads else 'worker'} {worker.index}")
        if isinstance(decision, Exclude):
            worker.enter("excluded", self._clock())
            self._record_failure(worker, failure, key, "excluded")
            self._executor.record(
                Incident("excluded", worker.index, worker.node, None, decision.reason, "", failure.traceback)
            )
            return
        self._executor.counts["restarts"] += not self._leads
        self._record_failure(worker, failure, key, "restart")
        self._worker_group.restart(worker, decision.after_s)

    def _record_failure(self, worker: WorkerHandle, failure: Failure, key: ShardKey | None, outcome: str) -> None:
        shard = None if key is None else key[1]
        self._executor.record(
            Incident(
                "leader_lost" if self._leads else failure.kind,
                worker.index,
                worker.node,
                shard,
                f"leader {worker.index}: {failure.detail}" if self._leads else failure.detail,
                outcome,
                failure.traceback,
            )
        )
