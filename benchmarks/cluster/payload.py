"""Outer steps with next to no computation: ready-made updates of any size, made by real workers for a real server.

What is left of a step is what the runtime and the server cost. A worker may be told to sleep for a while before it
reports, which stands for computing and takes no core, so that many workers overlap on a machine with few of them.

Workers say in their metrics when they began, by the system's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.timing import median
from distmeta.config import OuterConfig, RuntimeConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.types import Params, Report, Shard, Snapshot, TaskSpec, Update
from distmeta.runtime.executor import Executor
from distmeta.runtime.ray.cluster import connect
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.server import ParameterServer, Verdict

MB = 1e6
TINY_CPUS = 0.01
"""Share of a processor that Ray reserves for a worker: any number of them fit."""
OUTER = OuterConfig(optimizer="SGD", lr=1e-3)
"""Plain gradient descent without momentum: the cheapest outer step that there is."""

_LAYERS = 8
_OWN_BYTES = 32 << 20
_ITEM = 4  # float32
_ENTRY = 1e-3
_START_TIMEOUT_S = 600.0  # many processes, each importing torch, on few cores


@dataclass(frozen=True)
class PayloadRecipe:
    """Makes a `PayloadProgram`."""

    def build(self) -> PayloadProgram:
        """See `distmeta.runtime.executor.Recipe`."""
        return PayloadProgram()


class PayloadProgram:
    """Reports a ready-made update that is shaped as the snapshot, after the sleep that the shard asks for."""

    def __init__(self) -> None:
        self._grads: dict[tuple[torch.Size, ...], Params] = {}
        self._cpu_s = time.process_time()

    def prepare(self, kind: str, shard: Shard) -> None:
        """There is nothing to prepare."""

    def run(self, kind: str, snapshot: Snapshot, shard: Shard) -> Report:
        """See `distmeta.runtime.executor.Program`; `cpu_s` is what this process has used since the shard before."""
        began, cpu_s = time.monotonic(), time.process_time()
        forms = tuple(tensor.shape for tensor in snapshot.params.values())
        if forms not in self._grads:
            self._grads = {forms: ready_made(snapshot.params)}
        metrics = {"began": began, "cpu_s": cpu_s - self._cpu_s}
        self._cpu_s = cpu_s
        if seconds := sleep_of(shard):
            time.sleep(seconds)
        return Report(snapshot.version, shard.index, Update(self._grads[forms], 1.0, metrics))

    def timing(self) -> Mapping[str, float]:
        """Nobody waits, nothing is computed."""
        return {"data_wait_s": 0.0, "compute_s": 0.0}


def ready_made(like: Mapping[str, torch.Tensor]) -> Params:
    """Tensors of these shapes. Those of a large update lie in the same memory, so that 32 workers fit on a machine."""
    if sum(tensor.nbytes for tensor in like.values()) <= _OWN_BYTES:
        return {name: torch.full_like(tensor, _ENTRY) for name, tensor in like.items()}
    shared = torch.full((max(tensor.numel() for tensor in like.values()),), _ENTRY)
    return {name: shared[: tensor.numel()].view(tensor.shape) for name, tensor in like.items()}


def heap_bytes(payload: float) -> float:
    """Memory of a worker's ready-made update."""
    return payload if payload <= _OWN_BYTES else payload / _LAYERS


def make_params(num_bytes: int) -> Params:
    """Parameters of about `num_bytes`, as a network has them: layers of a large weight and a small bias each."""
    width = max(1, round((num_bytes / _ITEM / _LAYERS) ** 0.5))
    params: Params = {}
    for layer in range(_LAYERS):
        params[f"layer{layer}.weight"] = torch.zeros(width, width)
        params[f"layer{layer}.bias"] = torch.zeros(width)
    return params


def make_shards(sleeps: Sequence[float]) -> tuple[Shard, ...]:
    """A shard for each sleep, in seconds."""
    return tuple(
        Shard(index, (TaskSpec(index, round(1e6 * seconds), "microseconds to sleep"),))
        for index, seconds in enumerate(sleeps)
    )


def sleep_of(shard: Shard) -> float:
    """Seconds that the shard's worker is to sleep."""
    return 1e-6 * shard.specs[0].seed


@dataclass(frozen=True)
class Step:
    """One outer step, in seconds.

    Attributes:
        total_s: All of it.
        send_s: From its begin until the first worker has its snapshot and begins: pull, put, orders.
        report_s: From there to the last report, without what the driver spent on adding.
        add_s: Adding, as reports come.
        outer_s: The rest of the server's step: the mean, the outer optimizer.
        serial_s: Processor time of the driver's own thread in all of this.
        pull_cpu_s, add_cpu_s, outer_cpu_s: Its parts on the server.
        process_cpu_s: Processor time of the driver with Ray's threads.
        worker_cpu_s: Mean processor time of a worker for a shard (the one before, so the first step's is unknown).
    """

    total_s: float
    send_s: float
    report_s: float
    add_s: float
    outer_s: float
    serial_s: float
    pull_cpu_s: float
    add_cpu_s: float
    outer_cpu_s: float
    process_cpu_s: float
    worker_cpu_s: float


def run_step(server: ParameterServer, executor: Executor, shards: Sequence[Shard]) -> Step:
    """Make an outer step as training does, and time it.

    Raises:
        DistmetaError: The server did not take a report.
    """
    process, thread = time.process_time(), time.thread_time()
    started = time.monotonic()
    snapshot = server.pull()
    pull_cpu_s = time.thread_time() - thread
    add_s = add_cpu_s = worker_cpu_s = 0.0
    began: list[float] = []
    for result in executor.map("update", snapshot, shards):
        before, before_cpu = time.monotonic(), time.thread_time()
        verdict = server.push(result.value)
        add_s += time.monotonic() - before
        add_cpu_s += time.thread_time() - before_cpu
        if verdict is not Verdict.ACCEPTED:
            raise DistmetaError(f"the update of shard {result.shard} is {verdict.value}")
        began.append(result.value.update.metrics["began"])
        worker_cpu_s += result.value.update.metrics["cpu_s"]
    reported, reported_cpu = time.monotonic(), time.thread_time()
    server.step(len(shards))
    ended, ended_cpu = time.monotonic(), time.thread_time()
    send_s = min(began) - started
    return Step(
        total_s=ended - started,
        send_s=send_s,
        report_s=reported - started - send_s - add_s,
        add_s=add_s,
        outer_s=ended - reported,
        serial_s=ended_cpu - thread,
        pull_cpu_s=pull_cpu_s,
        add_cpu_s=add_cpu_s,
        outer_cpu_s=ended_cpu - reported_cpu,
        process_cpu_s=time.process_time() - process,
        worker_cpu_s=worker_cpu_s / len(shards),
    )


def medians(steps: Sequence[Step]) -> Step:
    """The median of each number."""
    return Step(**{name: median([getattr(step, name) for step in steps]) for name in Step.__dataclass_fields__})


@contextmanager
def cluster(max_workers: int, object_store_bytes: int) -> Iterator[Callable[[int], Executor]]:
    """A Ray cluster of its own on this machine. Yields what starts so many workers in it; close them yourself."""
    config = RuntimeConfig(workers=max_workers, cpus_per_worker=TINY_CPUS, address="local")

    def crew(workers: int) -> Executor:
        crew_config = config.model_copy(update={"workers": workers})
        executor = RayExecutor(crew_config, PayloadRecipe(), placement_timeout_s=_START_TIMEOUT_S)
        executor.ready()
        return executor

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads_per_worker)  # of the server, as in training
    connected = connect(config, object_store_bytes)
    try:
        yield crew
    finally:
        connected.disconnect()
        torch.set_num_threads(threads)
