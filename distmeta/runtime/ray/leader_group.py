"""The actors of a run's leaders: creates, asks and stops them. They reserve no resources, which workers need."""

from __future__ import annotations

from typing import Any

from distmeta.config import RuntimeConfig
from distmeta.runtime.messages import UnitRequest
from distmeta.runtime.ray.cluster import Cluster
from distmeta.runtime.ray.leader import LeaderActor
from distmeta.runtime.ray.remote_call import RemoteCall
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import WorkerHandle


class LeaderGroup(WorkerGroup):
    """Leaders, with the handles and the life of workers.

    Args:
        config: Of the run; leaders have its timeouts.
        num_leaders: Their number.
        cluster: Where they run.
        calls: Open calls by reference, shared with the group of the workers.
    """

    def __init__(self, config: RuntimeConfig, num_leaders: int, cluster: Cluster, calls: dict[Any, RemoteCall]) -> None:
        nobody: Any = None
        own = config.model_copy(update={"workers": num_leaders})
        super().__init__(own, nobody, "none", cluster, actor=LeaderActor, calls=calls)
        self._options = {**self._options, "num_cpus": 0, "num_gpus": 0}
        self._start_args = (config,)

    def watch(self, leader: WorkerHandle) -> None:
        """Ask a leader for its next events."""
        self._expect(leader, leader.ranks[0], "events", leader.actor.events.remote())

    def submit_unit(
        self,
        leader: WorkerHandle,
        slot: int,
        request: UnitRequest,
        snapshot: Any,
        source: WorkerHandle | None = None,
        *,
        split_grad: bool = False,
    ) -> None:
        """Ask a leader for a unit.

        Args:
            leader: The leader.
            slot: Which of its slots has the unit.
            request: The unit.
            snapshot: Ray's reference to the encoded snapshot, which says what to compute.
            source: The leader on whose node the snapshot has to be first.
            split_grad: Keep the gradient of the unit's sum on the leader's node, as an object of its own.
        """
        args = request, [snapshot], None if source is None else source.actor
        if split_grad:
            ref, grad = leader.actor.unit_split.options(num_returns=2).remote(*args)
        else:
            ref, grad = leader.actor.unit.remote(*args), None
        self.calls[ref] = RemoteCall(leader, leader.ranks[0], "unit", ref, request.key, grad, slot)

    def adopt(self, leader: WorkerHandle, worker: WorkerHandle) -> None:
        """Hand a worker over to a leader."""
        leader.actor.adopt.remote(worker.index, worker.actor, worker.ranks[0].location)

    def release(self, leader: WorkerHandle, worker: int) -> None:
        """Have a leader give a worker back when it has finished its shard."""
        leader.actor.release.remote(worker)

    def remove(self, leader: WorkerHandle, worker: int) -> None:
        """Have a leader forget a worker."""
        leader.actor.remove.remote(worker)

    def cancel_unit(self, leader: WorkerHandle, key: tuple[int, int]) -> None:
        """Have a leader give up a unit."""
        leader.actor.cancel_unit.remote(key)
