"""The Ray actors of a run: creates, asks and stops them. What to do about failures is decided elsewhere.

Each worker is an actor of its own, not a bundle of a placement group: workers need not run at the same time, and an
autoscaler looks for actors that wait for resources.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray._private.state import state as cluster_state

from distmeta.config import RuntimeConfig
from distmeta.core.types import Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Recipe
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Assignment
from distmeta.runtime.ray.actor import HEARTBEAT, WorkerActor, kill_process
from distmeta.runtime.ray.cluster import Cluster
from distmeta.runtime.ray.worker_handle import WorkerHandle
from distmeta.runtime.wire import ReportWire, encode_request

CallKind = Literal["locate", "start", "heartbeat", "shard", "sum"]

FETCH_TIMEOUT_S = 30.0
_MANY_CALLS = 8


@dataclass(frozen=True)
class RemoteCall:
    """A call of an actor's method whose answer is expected, or has arrived.

    Attributes:
        worker: The worker that was called.
        actor: Its actor at that time.
        kind: What was called.
        ref: Ray's reference to the answer.
        key: The shard, or the first shard of the group to sum.
        grad: Ray's reference to the shard's gradient, if that is an object of its own.
    """

    worker: WorkerHandle
    actor: Any
    kind: CallKind
    ref: Any
    key: ShardKey | None = None
    grad: Any = None

    @property
    def is_current(self) -> bool:
        """Whether the worker still has the actor that was called."""
        return self.actor is self.worker.actor


class WorkerGroup:
    """Creates, asks and stops the actors.

    Args:
        config: Their resources and timeouts.
        recipe: Their program.
        compression: How updates are rounded for transport.
        cluster: Where they run.
        clock: Monotonic seconds.

    Attributes:
        workers: One handle for each worker that the run may have, by index.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        recipe: Recipe,
        compression: Compression,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.workers = [WorkerHandle(index) for index in range(config.max_workers)]
        self._heartbeat_timeout_s = config.tolerance.heartbeat_timeout_s
        self._start_args = (recipe, config.threads_per_worker, compression, config.device)
        environment = cluster.worker_environment(config.threads_per_worker)
        self._options = {
            "num_cpus": config.cpus_per_worker,
            "num_gpus": config.gpus_per_worker,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment} if environment else None,
        }
        self._calls: dict[Any, RemoteCall] = {}

    def active(self) -> list[WorkerHandle]:
        """Workers that compute shards."""
        return [worker for worker in self.workers if worker.is_active]

    def create(self, worker: WorkerHandle) -> None:
        """Create a worker's actor. It answers `locate` once Ray has the resources, and `start` when it is ready."""
        decorate: Any = ray.remote(concurrency_groups={HEARTBEAT: 1})  # type: ignore[call-overload]
        worker.created(decorate(WorkerActor).options(**self._options).remote(), self._clock())
        self._expect(worker, "locate", worker.actor.locate.remote())
        self._expect(worker, "start", worker.actor.start.remote(worker.index, *self._start_args))

    def submit(
        self,
        worker: WorkerHandle,
        assignment: Assignment,
        key: ShardKey,
        work: Work,
        snapshot: Any,
        *,
        split_grad: bool,
    ) -> None:
        """Ask a worker for a shard.

        Args:
            worker: The worker.
            assignment: The shard.
            key: Call and shard.
            work: What to compute.
            snapshot: Ray's reference to the encoded snapshot.
            split_grad: Keep the gradient on the worker's node, as an object of its own.
        """
        worker.enqueue(key, self._clock())
        request = encode_request(key, work, assignment.shard, assignment.upcoming)
        if split_grad:
            ref, grad = worker.actor.run_split.options(num_returns=2).remote(request, snapshot)
            self._expect(worker, "shard", ref, key, grad)
        else:
            self._expect(worker, "shard", worker.actor.run.remote(request, snapshot), key)

    def submit_sum(self, worker: WorkerHandle, key: ShardKey, reports: list[ReportWire], grads: list[Any]) -> None:
        """Ask a worker for the sum of a group, whose first shard `key` names; `grads` are Ray's references."""
        self._expect(worker, "sum", worker.actor.sum.remote(reports, *grads), key)

    def cancel(self, worker: WorkerHandle, key: ShardKey) -> None:
        """Tell a worker to skip a shard, unless it has started it."""
        worker.actor.cancel.options(concurrency_group=HEARTBEAT).remote(key)

    def wait(self, timeout_s: float) -> list[RemoteCall]:
        """Wait until at least one call is answered. Returns all that are; none after `timeout_s`."""
        refs = list(self._calls)
        if not refs:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(refs, timeout=timeout_s)
        if ready and len(refs) > _MANY_CALLS:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        answered = set(ready)
        calls = [call for ref, call in self._calls.items() if ref in answered]
        for call in calls:
            del self._calls[call.ref]
            call.worker.last_heard = self._clock()
        return calls

    def fetch(self, ref: Any) -> Any:
        """Get an object.

        Raises:
            RayError: The call raised, its worker died, or the object is lost.
        """
        return ray.get(ref, timeout=FETCH_TIMEOUT_S)

    def complete(self, call: RemoteCall) -> ShardKey | None:
        """Record that a call was answered. Returns the shard that the worker was running until then."""
        worker = call.worker
        running = worker.queue[0] if worker.queue else None
        if call.kind == "shard" and call.key is not None:
            worker.dequeue(call.key)
        return running

    def send_heartbeats(self) -> None:
        """Request a heartbeat of every worker that has not been heard for a while."""
        now = self._clock()
        for worker in self.workers:
            if worker.needs_ping(now, self._heartbeat_timeout_s):
                worker.pinged(now)
                ref = worker.actor.heartbeat.options(concurrency_group=HEARTBEAT).remote()
                self._expect(worker, "heartbeat", ref)

    def is_silent(self, worker: WorkerHandle) -> bool:
        """Whether a worker has left heartbeats unanswered for too long."""
        return worker.is_silent(self._clock(), self._heartbeat_timeout_s) and not self._has_answered(worker)

    def is_overdue(self, worker: WorkerHandle, timeout_s: float) -> bool:
        """Whether a worker has been at one shard for longer than `timeout_s`."""
        return worker.is_overdue(self._clock(), timeout_s) and not self._has_answered(worker)

    def stop(self, worker: WorkerHandle, *, force: bool = False) -> None:
        """Stop a worker. Its answers are no longer expected.

        Args:
            worker: The worker.
            force: Kill its process from its node as well: it may not respond to Ray.
        """
        self._calls = {ref: call for ref, call in self._calls.items() if call.worker is not worker}
        if worker.actor is not None:
            if force and worker.location is not None:
                kill_process(worker.location)
            ray.kill(worker.actor, no_restart=True)
        worker.stopped()

    def restart(self, worker: WorkerHandle, after_s: float) -> None:
        """Create a stopped worker again after a backoff."""
        now = self._clock()
        worker.enter("backoff", now)
        worker.backoff_until = now + after_s
        if not after_s:
            self.create(worker)

    def start_due(self) -> None:
        """Create the workers whose backoff is over."""
        now = self._clock()
        for worker in self.workers:
            if worker.state == "backoff" and now >= worker.backoff_until:
                self.create(worker)

    def draining_nodes(self) -> set[str]:
        """Ids of nodes that are being drained or preempted."""
        return set(cluster_state.get_draining_nodes())

    def close(self) -> None:
        """Stop all workers."""
        for worker in self.workers:
            self.stop(worker)

    def _has_answered(self, worker: WorkerHandle) -> bool:
        """Whether an answer has arrived that the driver has not taken yet."""
        refs = [ref for ref, call in self._calls.items() if call.worker is worker]
        return bool(refs) and bool(ray.wait(refs, timeout=0)[0])

    def _expect(
        self, worker: WorkerHandle, kind: CallKind, ref: Any, key: ShardKey | None = None, grad: Any = None
    ) -> None:
        self._calls[ref] = RemoteCall(worker, worker.actor, kind, ref, key, grad)
