"""Where shards are computed."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from distmeta.config.base import Frozen


class ToleranceConfig(Frozen):
    """Failures and slow workers: deadlines, limits, copies. None of these fields changes the result.

    Attributes:
        shard_timeout_s: After this long without an answer, a shard's worker is replaced and the shard computed again.
        heartbeat_timeout_s: After this long without a heartbeat, a worker is replaced, whatever it was doing.
        max_shard_retries: Failures of one shard before the run stops with the worker's own error.
        max_worker_failures: Failures in a row, without a finished shard in between, after which a worker is excluded.
        speculate: Give the slowest shards at the end of a step to idle workers as well; the first report wins.
        aggregate: Where updates are added: by the driver as they arrive, or in groups on the nodes of their workers, so
            that fewer bytes travel. `auto` is `node` for large updates of several nodes.
    """

    shard_timeout_s: PositiveFloat = 600.0
    heartbeat_timeout_s: PositiveFloat = 15.0
    max_shard_retries: NonNegativeInt = 3
    max_worker_failures: PositiveInt = 3
    speculate: bool = True
    aggregate: Literal["auto", "driver", "node"] = "auto"


class RuntimeConfig(Frozen):
    """Where shards are computed. None of these fields changes the result, except `shard_size` and `device`.

    Attributes:
        executor: This process (`local`) or Ray actors (`ray`).
        workers: Ray actors: a number, or `MIN..MAX` for a cluster that grows and shrinks. Training begins with MIN of
            them and adds others, up to MAX, as there is room; either way it goes on with those that are left.
        cpus_per_worker: CPUs that Ray reserves for each actor.
        gpus_per_worker: GPUs that Ray reserves for each actor; fractions share one.
        threads_per_worker: Tasks, or chunks of tasks, that one worker computes at a time, each on a thread.
        shard_size: Tasks that are summed together by one worker.
        address: Address of a running Ray cluster; None takes RAY_ADDRESS, or starts a local cluster.
        device: Device of the workers.
        tolerance: Deadlines, limits of failures, and copies of slow shards.
    """

    executor: Literal["local", "ray"] = "ray"
    workers: int | str = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: float = Field(0.0, ge=0.0)
    threads_per_worker: PositiveInt = 1
    shard_size: PositiveInt = 16
    address: str | None = None
    device: str = "cpu"
    tolerance: ToleranceConfig = ToleranceConfig()

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, workers: object) -> int | str:
        match = re.fullmatch(r"([1-9]\d*)(?:\.\.([1-9]\d*))?", str(workers))
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"'{workers}' is not a number of workers; allowed: a whole number from 1, or MIN..MAX")
        return str(workers) if match[2] else int(match[1])

    @property
    def min_workers(self) -> int:
        """Workers to begin with."""
        return self.workers if isinstance(self.workers, int) else int(self.workers.partition("..")[0])

    @property
    def max_workers(self) -> int:
        """Workers to have when there is room for them."""
        return self.workers if isinstance(self.workers, int) else int(self.workers.partition("..")[2])

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError(f"unknown device '{device}'; allowed: cpu, cuda, cuda:N")
        return device

    @model_validator(mode="after")
    def _gpus_are_used(self) -> Self:
        if self.gpus_per_worker and self.device == "cpu":
            raise ValueError("runtime.gpus_per_worker reserves a GPU but runtime.device is 'cpu'; set it to 'cuda'")
        return self
