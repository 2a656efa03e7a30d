"""A program that sleeps instead of computing, with ready-made updates of any size.

More workers than cores run at once, and the time of a shard is known: the rest of a step is the cost of the runtime
and the server.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from typing_extensions import override

from benchmarks.cluster.common.sleeps import sleep_of
from distmeta.config import EngineConfig
from distmeta.core.types import Params, Report, Shard, Snapshot, Update, Work
from distmeta.runtime.executor import Program

UPDATE = Work("update", EngineConfig())
"""What runs ask their workers for, with the settings that travel with it."""

_LAYERS = 8
_SEPARATE_BYTES = 32 << 20
_FLOAT32_BYTES = 4
_ENTRY = 1e-3


@dataclass(frozen=True)
class SleepRecipe:
    """Makes a `SleepProgram`; the first process that builds it may be slow.

    Attributes:
        slowdown: Factor of the slow process's sleeps; 1 makes all processes alike.
        folder: Where the slow process holds a lock for its life.
    """

    slowdown: float = 1.0
    folder: str = ""

    def build(self) -> SleepProgram:
        return SleepProgram(self.slowdown if self.slowdown != 1.0 and self._lock() else 1.0)

    def _lock(self) -> bool:
        lock = os.open(Path(self.folder) / "slow", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        return True


class SleepProgram(Program):
    """Reports a ready-made update of the snapshot's shapes, after the sleep that the shard asks for.

    The weight of an update is that of its shard alone, so that a shard that is lost or counted twice changes the step.
    Metrics: `began`, the start of the shard by the monotonic clock that all processes of a machine share; `cpu_s`,
    processor seconds of this process since the shard before.

    Args:
        slowdown: Factor of the sleeps.
    """

    def __init__(self, slowdown: float = 1.0) -> None:
        self.slowdown = slowdown
        self._grads: dict[tuple[torch.Size, ...], Params] = {}
        self._cpu_s = time.process_time()

    @override
    def prepare(self, work: Work, shard: Shard) -> None:
        pass

    @override
    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Report:
        began, cpu_s = time.monotonic(), time.process_time()
        shapes = tuple(tensor.shape for tensor in snapshot.params.values())
        if shapes not in self._grads:
            self._grads = {shapes: ready_made(snapshot.params)}
        metrics = {"began": began, "cpu_s": cpu_s - self._cpu_s}
        self._cpu_s = cpu_s
        if seconds := sleep_of(shard):
            time.sleep(self.slowdown * seconds)
        return Report(snapshot.version, shard.index, Update(self._grads[shapes], 1.0 + shard.index, metrics))

    @override
    def timing(self) -> Mapping[str, float]:
        return {"data_wait_s": 0.0, "compute_s": 0.0}

    @override
    def close(self) -> None:
        pass


def ready_made(params: Mapping[str, torch.Tensor]) -> Params:
    """An update of these shapes. The tensors of a large one share memory, so that 32 workers fit on a machine."""
    if num_bytes(params) <= _SEPARATE_BYTES:
        return {name: torch.full_like(tensor, _ENTRY) for name, tensor in params.items()}
    shared = torch.full((max(tensor.numel() for tensor in params.values()),), _ENTRY)
    return {name: shared[: tensor.numel()].view(tensor.shape) for name, tensor in params.items()}


def ready_made_bytes(payload: float) -> float:
    """Memory of a worker's ready-made update of `payload` bytes."""
    return payload if payload <= _SEPARATE_BYTES else payload / _LAYERS


def make_params(size: float) -> Params:
    """Parameters of about `size` bytes, shaped like a network's: layers of a large weight and a small bias each."""
    width = max(1, round((int(size) / _FLOAT32_BYTES / _LAYERS) ** 0.5))
    params: Params = {}
    for layer in range(_LAYERS):
        params[f"layer{layer}.weight"] = torch.zeros(width, width)
        params[f"layer{layer}.bias"] = torch.zeros(width)
    return params


def num_bytes(params: Mapping[str, torch.Tensor]) -> int:
    """Size of parameters, and so of an update."""
    return sum(tensor.nbytes for tensor in params.values())
