"""The Ray actors of a run: creates, asks and stops them. What to do about failures is decided elsewhere.

Each worker is an actor of its own, not a bundle of a placement group: workers need not run at the same time, and an
autoscaler looks for actors that wait for resources. Only the ranks of one worker (`runtime.ranks`), which cannot work
without each other, have a placement group. All are asked for a shard, in the same order; rank 0's answer counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._private.state import state as cluster_state
from ray.exceptions import RayActorError, RayError

from distmeta.config import RuntimeConfig
from distmeta.core.signals import unwrapped
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Recipe
from distmeta.runtime.messages import Location, ReportWire, Requests, ResultWire
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.policy.schedule import Assignment
from distmeta.runtime.ray.actor import HEARTBEAT, WorkerActor, kill_process
from distmeta.runtime.ray.cluster import Cluster, resources_of
from distmeta.runtime.ray.placement import in_bundle, release, reserve
from distmeta.runtime.ray.rank import RankActor
from distmeta.runtime.ray.remote_call import CallKind, RemoteCall
from distmeta.runtime.ray.worker_handle import RankHandle, WorkerHandle
from distmeta.runtime.shared import SharedReader
from distmeta.runtime.wire import encode_params

FETCH_TIMEOUT_S = 30.0
LOST_RANK_TIMEOUT_S = 3.0
LOST_RANK_POLL_S = 0.05
_MANY_CALLS = 8


class WorkerGroup:
    """Creates, asks and stops the actors.

    Args:
        config: Their resources and timeouts.
        recipe: Their program.
        compression: How updates are rounded for transport.
        cluster: Where they run.
        clock: Monotonic seconds.
        actor: The class of actors; that of benchmarks computes nothing.
        calls: Open calls by reference, shared with another group so that both are awaited together.

    Attributes:
        workers: One handle for each worker that the run may have, by index.
        requests: Packs what workers are asked.
        calls: Open calls by reference.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        recipe: Recipe,
        compression: Compression,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
        actor: type[Any] = WorkerActor,
        calls: dict[Any, RemoteCall] | None = None,
    ) -> None:
        self._clock, self._actor = clock, actor
        self.calls = {} if calls is None else calls
        self.workers = [WorkerHandle(index) for index in range(config.max_workers)]
        self.requests = Requests()
        self._heartbeat_timeout_s = config.tolerance.heartbeat_timeout_s
        self._config = config
        self._start_args: tuple[Any, ...] = (recipe, config.threads_per_worker, compression, config.device)
        environment = cluster.worker_environment(config.threads_per_worker)
        self._options = {
            "num_cpus": config.cpus_per_worker,
            "num_gpus": config.gpus_per_worker,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment} if environment else None,
        }

    def active(self) -> list[WorkerHandle]:
        """Workers that compute shards."""
        return [worker for worker in self.workers if worker.is_active]

    def create(self, worker: WorkerHandle) -> None:
        """Create a worker's actors. They answer `locate` once Ray has the resources, and `start` when ready."""
        decorate: Any = ray.remote(concurrency_groups={HEARTBEAT: 1})  # type: ignore[call-overload]
        now, num_ranks = self._clock(), self._config.ranks
        if num_ranks > 1:
            placement = reserve(resources_of(self._config), num_ranks)
            places = [{**self._options, "scheduling_strategy": in_bundle(placement, i)} for i in range(num_ranks)]
            actors = [decorate(RankActor).options(**place).remote(worker.index) for place in places]
            worker.created(actors, now, placement)
        else:
            worker.created([decorate(self._actor).options(**self._options).remote()], now)
        for rank in worker.ranks:
            self._expect(worker, rank, "locate", rank.actor.locate.remote())
        if num_ranks == 1:
            self._start(worker)

    def advance(self, call: RemoteCall, value: Any) -> bool:
        """Take the answer of one of `START_CALLS`, and begin the next phase of the start when all ranks have answered.

        Returns:
            Whether the worker is ready.
        """
        worker, now = call.worker, self._clock()
        if call.kind in ("locate", "start"):
            self._locate(call.rank, value)
        rank = worker.ranks.index(call.rank)
        if worker.start_up is not None and not worker.start_up.answer(rank, now):
            return False
        if call.kind == "locate" and worker.state == "pending":
            worker.enter("starting", now)
        if worker.start_up is None:
            return call.kind == "start"
        if call.kind == "locate":
            worker.sort_ranks()
            self._expect(worker, worker.ranks[0], "open_store", worker.actor.open_store.remote(len(worker.ranks)))
        elif call.kind == "open_store":
            host, port = value
            others = (self._config.device, self._config.partition, self._config.tolerance.shard_timeout_s)
            for number, each in enumerate(worker.ranks):
                ref = each.actor.join.remote(number, len(worker.ranks), host, port, *others)
                self._expect(worker, each, "join", ref)
        elif call.kind == "join":
            self._start(worker)
        return call.kind == "start"

    def submit(
        self,
        worker: WorkerHandle,
        assignment: Assignment,
        key: ShardKey,
        snapshot: Any,
        *,
        split_grad: bool,
    ) -> None:
        """Ask a worker for a shard.

        Args:
            worker: The worker.
            assignment: The shard.
            key: Call and shard.
            snapshot: Ray's reference to the encoded snapshot, which says what to compute.
            split_grad: Keep the gradient on the worker's node, as an object of its own.
        """
        worker.enqueue(key, self._clock())
        shard = assignment.shard
        args = [self.requests.pack(key[0], shard, assignment.upcoming, worker.reader), snapshot]
        if shard.carry:
            args.append(encode_params(shard.carry))
        first, *others = worker.ranks
        if split_grad:
            ref, grad = first.actor.run_split.options(num_returns=2).remote(*args)
            self._expect(worker, first, "shard", ref, key, grad)
        else:
            self._expect(worker, first, "shard", first.actor.run.remote(*args), key)
        for rank in others:
            self._expect(worker, rank, "follow", rank.actor.follow.remote(*args), key)

    def submit_sum(self, worker: WorkerHandle, key: ShardKey, reports: list[ReportWire], grads: list[Any]) -> None:
        """Ask a worker for the sum of a group, whose first shard `key` names; `grads` are Ray's references."""
        self._expect(worker, worker.ranks[0], "sum", worker.actor.sum.remote(reports, *grads), key)

    def cancel(self, worker: WorkerHandle, key: ShardKey) -> None:
        """Tell a worker to skip a shard, unless it has started it. Ranks do not: some of them may have."""
        if len(worker.ranks) == 1:
            worker.actor.cancel.options(concurrency_group=HEARTBEAT).remote(key)

    def wait(self, timeout_s: float) -> list[RemoteCall]:
        """Wait until at least one call is answered. Returns all that are; none after `timeout_s`."""
        refs = list(self.calls)
        if not refs:
            time.sleep(timeout_s)
            return []
        many = len(refs) > _MANY_CALLS
        # Where many answer, some have answered already: all of these are taken at once.
        ready = ray.wait(refs, num_returns=len(refs), timeout=0)[0] if many else []
        if not ready:
            with unwrapped():
                ready, _ = ray.wait(refs, timeout=timeout_s)
        now = self._clock()
        calls = [self.calls.pop(ref) for ref in ready]
        for call in calls:
            call.rank.last_heard = now
        return calls

    def fetch_answers(self, calls: Sequence[RemoteCall]) -> list[Any]:
        """The answers of calls that were answered; of those that failed, the `RayError` itself."""
        try:
            with unwrapped():
                answers: list[Any] = ray.get([call.ref for call in calls], timeout=FETCH_TIMEOUT_S)
        except RayError:
            answers = [self._answer_or_error(call.ref) for call in calls]
        return [self.opened(call, answer) for call, answer in zip(calls, answers, strict=True)]

    def opened(self, call: RemoteCall, answer: Any) -> Any:
        """The answer of a call, with gradients that are in shared memory in place."""
        memory = call.rank.memory
        if memory is None:
            return answer
        if isinstance(answer, list):  # of a leader
            return [memory.open(each) if isinstance(each, ResultWire) else each for each in answer]
        return memory.open(answer) if isinstance(answer, ResultWire) else answer

    def _answer_or_error(self, ref: Any) -> Any:
        try:
            return self.fetch(ref)
        except RayError as error:
            return error

    def fetch(self, ref: Any) -> Any:
        """Get an object.

        Raises:
            RayError: The call raised, its worker died, or the object is lost.
        """
        with unwrapped():
            return ray.get(ref, timeout=FETCH_TIMEOUT_S)

    def complete(self, call: RemoteCall) -> ShardKey | None:
        """Record that a call was answered. Returns the shard that the worker was running until then."""
        worker = call.worker
        running = worker.queue[0] if worker.queue else None
        if call.kind == "shard" and call.key is not None:
            worker.dequeue(call.key)
        return running

    def send_heartbeats(self) -> None:
        """Request a heartbeat of every process that has not been heard for a while."""
        now = self._clock()
        for worker in self.workers:
            if worker.leader is not None:
                continue  # its leader does
            for rank in worker.ranks_to_ping(now, self._heartbeat_timeout_s):
                rank.pinged(now)
                ref = rank.actor.heartbeat.options(concurrency_group=HEARTBEAT).remote()
                self._expect(worker, rank, "heartbeat", ref)

    def silent_rank(self, worker: WorkerHandle) -> RankHandle | None:
        """A process of the worker that has left heartbeats unanswered for too long."""
        silent = worker.silent_ranks(self._clock(), self._heartbeat_timeout_s)
        return next((rank for rank in silent if not self._has_answered(rank)), None)

    def is_overdue(self, worker: WorkerHandle, timeout_s: float) -> bool:
        """Whether a worker has been at one shard for longer than `timeout_s`."""
        return worker.is_overdue(self._clock(), timeout_s) and not self._has_answered(worker.ranks[0])

    def lost_rank(self, worker: WorkerHandle) -> tuple[RankHandle, RayError] | None:
        """The rank whose process died, and how, after another one could not go on without it.

        Ray may notice it a moment later; None if it does not, as where a node has lost its network.
        """
        deadline = time.monotonic() + LOST_RANK_TIMEOUT_S
        while True:
            calls = [call for call in self.calls.values() if call.worker is worker]
            ready, _ = ray.wait([call.ref for call in calls], num_returns=len(calls), timeout=0) if calls else ([], [])
            for call in calls:
                if call.ref in ready:
                    try:
                        self.fetch(call.ref)
                    except RayActorError as error:
                        return call.rank, error
                    except RayError:
                        continue
            if time.monotonic() > deadline:
                return None
            time.sleep(LOST_RANK_POLL_S)

    def stop(self, worker: WorkerHandle, *, force: bool = False) -> None:
        """Stop a worker. Its answers are no longer expected.

        Args:
            worker: The worker.
            force: Kill its process from its node as well: it may not respond to Ray.
        """
        for ref in [ref for ref, call in self.calls.items() if call.worker is worker]:
            del self.calls[ref]
        for rank in worker.ranks if worker.actor is not None else ():
            if force and rank.location is not None:
                kill_process(rank.location)
            ray.kill(rank.actor, no_restart=True)
        if worker.placement is not None:
            release(worker.placement)
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

    def _locate(self, rank: RankHandle, location: Location) -> None:
        """Learn where a process is; its memory is opened if it is on this node."""
        rank.location = location
        if location.memory is None or rank.memory is not None:
            return
        if location.node_id == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(OSError):  # another container: updates go through Ray's object store
                rank.memory = SharedReader(location.memory)

    def _start(self, worker: WorkerHandle) -> None:
        for rank in worker.ranks:
            self._expect(worker, rank, "start", rank.actor.start.remote(worker.index, *self._start_args))

    def _has_answered(self, rank: RankHandle) -> bool:
        """Whether an answer has arrived that the driver has not taken yet."""
        refs = [ref for ref, call in self.calls.items() if call.rank is rank]
        return bool(refs) and bool(ray.wait(refs, timeout=0)[0])

    def _expect(
        self,
        worker: WorkerHandle,
        rank: RankHandle,
        kind: CallKind,
        ref: Any,
        key: ShardKey | None = None,
        grad: Any = None,
    ) -> None:
        self.calls[ref] = RemoteCall(worker, rank, kind, ref, key, grad)
