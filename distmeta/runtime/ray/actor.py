"""The Ray actor around a worker, and how to kill an actor's process that no longer responds."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distmeta.core.collector import paused

with paused():  # a third of the time of these imports, which are most of a worker's start
    import psutil
    import ray
    import torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from distmeta.runtime.compression import Compression
    from distmeta.runtime.device import check_device
    from distmeta.runtime.executor import Recipe
    from distmeta.runtime.memory import prefault_object_store
    from distmeta.runtime.messages import Location, ParamsWire, ReportWire, ResultWire, ShardRequest, SnapshotWire
    from distmeta.runtime.shared import SharedMemory
    from distmeta.runtime.wire import decode_params, split_grad, sum_reports
    from distmeta.runtime.worker import Worker

HEARTBEAT = "heartbeat"
"""Concurrency group of the methods that are answered while a shard is computed."""

LARGE_UPDATE_BYTES = 1 << 20
"""Size from which the object store is prefaulted, and updates of several nodes are summed near their workers."""
_MAX_CANCELLED = 256


class WorkerActor:
    """A worker in a Ray actor. It is built by a method, so that the caller gets the exception if that fails."""

    def __init__(self) -> None:
        self._cancelled: dict[tuple[int, int], None] = {}
        self._prefaulted = False
        self._memory = SharedMemory()

    def locate(self) -> Location:
        """The first answer of an actor: Ray had the resources for it, and its process runs."""
        node_id: str = ray.get_runtime_context().get_node_id()
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Location(node_id, ray.util.get_node_ip_address(), os.getpid(), gpus, self._memory.place)  # type: ignore[no-untyped-call]

    def start(
        self, index: int, recipe: Recipe, threads: int, compression: Compression, device: str = "cpu"
    ) -> Location:
        """Build the worker. Returns the location once more, since this answer may be seen before that of `locate`.

        Raises:
            UserError: The worker does not have the device, or its program cannot be built.
        """
        # Ray hides all GPUs from an actor that has reserved none.
        check_device(device, holder=f"worker {index}", instead="runtime.gpus_per_worker=1 in a cluster with GPUs")
        torch.set_num_threads(threads)
        with paused(freeze=True):
            self._worker = Worker(index, recipe.build(), threads, compression)
        return self.locate()

    def run(self, packed: bytes, wire: SnapshotWire, carry: ParamsWire | None = None) -> ResultWire | None:
        """Compute a shard; None if its request was cancelled before it started.

        Args:
            packed: The request, as `distmeta.runtime.messages.Requests` packs it.
            wire: The snapshot, with what to compute.
            carry: The shard's carry; None if it is empty.
        """
        request = ShardRequest.of(packed)
        result = self._compute(request, wire, carry)
        return None if result is None else self._memory.share(result, request.reader)

    def _compute(self, request: ShardRequest, wire: SnapshotWire, carry: ParamsWire | None) -> ResultWire | None:
        if request.key in self._cancelled:
            del self._cancelled[request.key]
            return None
        if not self._prefaulted and not request.reader and wire.params.num_bytes >= LARGE_UPDATE_BYTES:
            self._prefaulted = True
            prefault_object_store()
        shard = request.shard if carry is None else replace(request.shard, carry=decode_params(carry))
        assert wire.work is not None, "an executor says what to compute"
        return self._worker.run(wire.work, wire, shard, request.upcoming)

    def run_split(
        self, packed: bytes, wire: SnapshotWire, carry: ParamsWire | None = None
    ) -> tuple[ResultWire | None, ParamsWire | None]:
        """Compute a shard as `run` does. The gradient is a second object, which stays on this node until fetched."""
        result = self._compute(ShardRequest.of(packed), wire, carry)
        return (None, None) if result is None else split_grad(result)

    def sum(self, reports: Sequence[ReportWire], *grads: ParamsWire) -> ReportWire:
        """Sum the reports of a group, whose gradients are objects of their own."""
        return sum_reports(reports, grads)

    def cancel(self, key: tuple[int, int]) -> None:
        """Skip a shard that another worker has finished, unless it has started."""
        self._cancelled[key] = None
        while len(self._cancelled) > _MAX_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]

    def heartbeat(self) -> bool:
        return True


def kill_process(location: Location) -> None:
    """Kill an actor's process from its own node. Ray asks a process to exit, which a stopped process never does."""
    if ray.get_runtime_context().get_node_id() == location.node_id:
        _kill(location.pid)
        return
    strategy = NodeAffinitySchedulingStrategy(location.node_id, soft=False)
    task: Any = ray.remote(_kill)
    task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(location.pid)


def _kill(pid: int) -> None:
    """Kill a process if it is a Ray worker: its id may have been given to another process."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if "".join(psutil.Process(pid).cmdline()).startswith("ray::"):
            os.kill(pid, signal.SIGKILL)
