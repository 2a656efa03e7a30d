"""The Ray actor around a worker, and how to end one whose process does not listen any more."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distmeta.core.types import Shard, Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Recipe
from distmeta.runtime.memory import map_object_store
from distmeta.runtime.wire import ParamsWire, ReportWire, ResultWire, SnapshotWire, split, sum_reports
from distmeta.runtime.worker import Worker

PULSE = "pulse"
"""Concurrency group of the calls that are answered while a shard is computed."""

LARGE_UPDATE = 1 << 20
"""Bytes of an update from which its way is worth some care: memory mapped beforehand, sums near the workers."""
_FORGOTTEN_AT_MOST = 256


@dataclass(frozen=True)
class Whereabouts:
    """Where an actor runs: Ray's id of the node, its address, the process."""

    node: str
    host: str
    pid: int


class WorkerActor:
    """Builds its worker in a call, so that an exception there is the call's result."""

    def __init__(self) -> None:
        self._forgotten: dict[tuple[int, int], None] = {}
        self._mapped = False

    def hello(self) -> Whereabouts:
        """The first answer: there was room for the actor, and its process runs."""
        node: str = ray.get_runtime_context().get_node_id()
        return Whereabouts(node, ray.util.get_node_ip_address(), os.getpid())  # type: ignore[no-untyped-call]

    def start(self, index: int, recipe: Recipe, threads: int, compression: Compression) -> Whereabouts:
        """Build the worker. Says again where it is: this answer may be seen before that of `hello`."""
        torch.set_num_threads(threads)
        self._worker = Worker(index, recipe.build(), threads, compression)
        return self.hello()

    def run_split(
        self, key: tuple[int, int], work: Work, wire: SnapshotWire, shard: Shard, upcoming: Shard | None
    ) -> tuple[ResultWire | None, ParamsWire | None]:
        """See `run`; the gradient is a second object, which stays where it is until it is wanted somewhere."""
        result = self.run(key, work, wire, shard, upcoming)
        return (None, None) if result is None else split(result)

    def add(self, reports: Sequence[ReportWire], *grads: ParamsWire) -> ReportWire:
        """The sum of a group's reports, near the workers that made them."""
        return sum_reports([replace(report, grad=grad) for report, grad in zip(reports, grads, strict=True)])

    def run(
        self, key: tuple[int, int], work: Work, wire: SnapshotWire, shard: Shard, upcoming: Shard | None
    ) -> ResultWire | None:
        """See `Worker.run`; None if the shard `key` was to be forgotten before it was begun."""
        if key in self._forgotten:
            del self._forgotten[key]
            return None
        if not self._mapped and wire.params.num_bytes >= LARGE_UPDATE:
            self._mapped = True
            map_object_store()
        return self._worker.run(work, wire, shard, upcoming)

    def forget(self, key: tuple[int, int]) -> None:
        """Another worker has done this shard."""
        self._forgotten[key] = None
        while len(self._forgotten) > _FORGOTTEN_AT_MOST:
            del self._forgotten[next(iter(self._forgotten))]

    def pulse(self) -> bool:
        """A sign of life."""
        return True


def end_process(where: Whereabouts) -> None:
    """Kill an actor's process on its own node. Ray asks a process to end, which one that is stopped never does."""
    if ray.get_runtime_context().get_node_id() == where.node:
        _kill(where.pid)
        return
    strategy = NodeAffinitySchedulingStrategy(where.node, soft=False)
    task: Any = ray.remote(_kill)
    task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(where.pid)


def _kill(pid: int) -> None:
    """Kill a process if it is a worker of Ray: its number may have passed to another."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if "".join(psutil.Process(pid).cmdline()).startswith("ray::"):
            os.kill(pid, signal.SIGKILL)
