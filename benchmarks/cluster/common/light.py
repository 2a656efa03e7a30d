"""Actors that sleep instead of computing and load no torch, so that hundreds of them fit on a machine.

They speak as `distmeta.runtime.ray.actor.WorkerActor` does, and report ready-made updates of the snapshot's size.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from benchmarks.cluster.common.sleeps import sleep_of
from distmeta.runtime.messages import Location, ParamsWire, ReportWire, ResultWire, ShardRequest, SnapshotWire
from distmeta.runtime.shared import SharedMemory

if TYPE_CHECKING:
    from distmeta.runtime.executor import Program


@dataclass(frozen=True)
class LightRecipe:
    """Stands for a program, where the actors are of `LightActor`."""

    def build(self) -> Program:
        raise NotImplementedError("light actors build no program")


class LightActor:
    """Sleeps as long as a shard says (`sleeps.sleep_of`) and reports zeros, with the weight of that shard alone."""

    def __init__(self) -> None:
        self._index = 0
        self._cancelled: set[tuple[int, int]] = set()
        self._grad: ParamsWire | None = None
        self._cpu_s = time.process_time()
        self._memory = SharedMemory()

    def locate(self) -> Location:
        node_id: str = ray.get_runtime_context().get_node_id()
        return Location(node_id, ray.util.get_node_ip_address(), os.getpid(), "", self._memory.place)  # type: ignore[no-untyped-call]

    def start(self, index: int, recipe: LightRecipe, *settings: Any) -> Location:
        self._index = index
        return self.locate()

    def run(self, packed: bytes, wire: SnapshotWire) -> ResultWire | None:
        request = ShardRequest.of(packed)
        if request.key in self._cancelled:
            self._cancelled.remove(request.key)
            return None
        began, cpu_s = time.monotonic(), time.process_time()
        if self._grad is None or self._grad.header != wire.params.header:
            small, large = np.zeros_like(wire.params.small), tuple(map(np.zeros_like, wire.params.large))
            self._grad = ParamsWire(wire.params.header, small, large)
        metrics = {"began": began, "cpu_s": cpu_s - self._cpu_s}
        self._cpu_s = cpu_s
        if seconds := sleep_of(request.shard):
            time.sleep(seconds)
        index = request.shard.index
        report = ReportWire(wire.version, index, self._grad, 1.0 + index, metrics, finite=True)
        result = ResultWire(index, report, self._index, 0.0, time.monotonic() - began)
        return self._memory.share(result, request.reader)

    def cancel(self, key: tuple[int, int]) -> None:
        self._cancelled.add(key)

    def heartbeat(self) -> bool:
        return True
