"""Outer steps of real workers and a real server with next to no computation, timed in parts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import psutil

from benchmarks.cluster.common.light import LightActor, LightRecipe
from benchmarks.cluster.common.programs import (
    UPDATE,
    SleepRecipe,
    make_params,
    num_bytes,
    ready_made_bytes,
)
from benchmarks.cluster.common.sleeps import make_shards
from benchmarks.cluster.common.steps import session
from benchmarks.report import progress
from distmeta.config import OuterConfig, RuntimeConfig
from distmeta.core.errors import DistmetaError
from distmeta.runtime.executor import Executor
from distmeta.runtime.ray.actor import WorkerActor
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.runtime.ray.led_executor import LedExecutor
from distmeta.server import ParameterServer, Verdict

MB = 1e6
OUTER = OuterConfig(optimizer="SGD", lr=1e-3)
"""Plain gradient descent without momentum: the cheapest outer step."""
WARM_UP_STEPS = 3
COPY_BLOCK_BYTES = 256 << 20

_CPUS_PER_WORKER = 0.01  # Ray reserves next to nothing, so that any number of workers fits
_START_TIMEOUT_S = 1800.0  # many processes, each importing torch, on few cores
_PROCESS_BYTES = 120 << 20
_USABLE_MEMORY = 0.9
_SHARED_MEMORY = Path("/dev/shm")

WorkersOf = Callable[[int], AbstractContextManager[Executor]]


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one outer step; `cpu` marks processor time, all else is elapsed time.

    Attributes:
        total_s: The whole step.
        send_s: From its start until the first worker has its snapshot and begins: pull, put, assignments.
        report_s: From there to the last report, without the driver's time for adding.
        add_s: Adding, as reports arrive.
        outer_s: The rest of the server's step: the mean, the outer optimizer.
        serial_s: Processor time of the driver's own thread in the whole step.
        pull_cpu_s, add_cpu_s, outer_cpu_s: Its parts in the server.
        process_cpu_s: Processor time of the driver with Ray's threads.
        worker_cpu_s: Mean processor time of a worker per shard (the shard before, so the first step's is unknown).
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

    @staticmethod
    def medians(steps: Sequence[StepTimes]) -> StepTimes:
        return StepTimes(*(median(getattr(step, field.name) for step in steps) for field in fields(StepTimes)))


class OverheadSteps:
    """Outer steps of workers that sleep; `payload`, the bytes of an update, is nearly the size asked for.

    Args:
        executor: With workers of `SleepRecipe` or `LightRecipe`.
        payload_mb: Size of an update, in MB.
        tasks: Of each shard.
    """

    def __init__(self, executor: Executor, payload_mb: float, tasks: int = 1) -> None:
        params = make_params(payload_mb * MB)
        self.payload = num_bytes(params)
        self.server = ParameterServer(params, OUTER, total_steps=1)
        self._executor, self._tasks = executor, tasks

    def step(self, sleeps_s: Sequence[float]) -> StepTimes:
        """Make an outer step as training does, with a shard for each sleep.

        Raises:
            DistmetaError: The server did not accept a report.
        """
        server, shards = self.server, make_shards(sleeps_s, self._tasks)
        process_cpu, thread_cpu, start = time.process_time(), time.thread_time(), time.monotonic()
        snapshot = server.pull()
        pull_cpu_s = time.thread_time() - thread_cpu
        add_s = add_cpu_s = worker_cpu_s = 0.0
        began: list[float] = []
        for result in self._executor.map(UPDATE, snapshot, shards):
            before, before_cpu = time.monotonic(), time.thread_time()
            verdict = server.push(result.value)
            add_s += time.monotonic() - before
            add_cpu_s += time.thread_time() - before_cpu
            if verdict is not Verdict.ACCEPTED:
                raise DistmetaError(f"the update of shard {result.shard} is {verdict.value}")
            began.append(result.value.update.metrics["began"] / result.value.count)  # of a group, the mean
            worker_cpu_s += result.value.update.metrics["cpu_s"]
        reported, reported_cpu = time.monotonic(), time.thread_time()
        server.step(len(shards))
        end, end_cpu = time.monotonic(), time.thread_time()
        send_s = min(began) - start
        return StepTimes(
            total_s=end - start,
            send_s=send_s,
            report_s=reported - start - send_s - add_s,
            add_s=add_s,
            outer_s=end - reported,
            serial_s=end_cpu - thread_cpu,
            pull_cpu_s=pull_cpu_s,
            add_cpu_s=add_cpu_s,
            outer_cpu_s=end_cpu - reported_cpu,
            process_cpu_s=time.process_time() - process_cpu,
            worker_cpu_s=worker_cpu_s / len(shards),
        )

    def step_s(self, sleeps_s: Sequence[float]) -> float:
        return self.step(sleeps_s).total_s


@contextmanager
def ray_workers(
    max_workers: int, object_store_bytes: int, *, light: bool = False, leaders: int = 0
) -> Iterator[WorkersOf]:
    """A Ray cluster of its own on this machine. Yields a context that starts a number of workers and ends them.

    Args:
        max_workers: The largest number.
        object_store_bytes: Size of its object store.
        light: Actors that load no torch.
        leaders: Number of leaders.
    """
    config = RuntimeConfig(workers=max_workers, leaders=leaders, cpus_per_worker=_CPUS_PER_WORKER, address="local")

    @contextmanager
    def workers_of(count: int) -> Iterator[Executor]:
        progress(f"starting {count} workers")
        changed = config.model_copy(update={"workers": count})
        recipe, actor = (LightRecipe(), LightActor) if light else (SleepRecipe(), WorkerActor)
        kind = LedExecutor if leaders else RayExecutor
        executor = kind(changed, recipe, placement_timeout_s=_START_TIMEOUT_S, actor=actor)
        try:
            executor.ready()
            yield executor
        finally:
            executor.close()

    with session(config, object_store_bytes):
        yield workers_of


def store_bytes(shards: int, payload: float) -> int:
    """Size of an object store for a step's updates: Ray begins to write to the disk at 80%."""
    return int(1.5 * shards * payload + 4 * payload) + (128 << 20)


def needed_bytes(workers: int, payload: float, shards_per_worker: int = 1) -> int:
    """Memory of all processes together: object store, workers, server, and the buffers of a copy."""
    shards = workers * shards_per_worker
    of_workers = workers * (_PROCESS_BYTES + ready_made_bytes(payload))
    return int(store_bytes(shards, payload) + of_workers + 6 * payload + 2 * min(shards * payload, COPY_BLOCK_BYTES))


def usable_bytes() -> int:
    """Most of the memory that is free here, and free in the shared memory of the object store."""
    free = int(psutil.virtual_memory().available)
    if _SHARED_MEMORY.is_dir():
        free = min(free, shutil.disk_usage(_SHARED_MEMORY).free)
    return int(_USABLE_MEMORY * free)
