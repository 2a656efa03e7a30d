"""Where shards are computed, and how failures are handled."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from distmeta.config.base import Frozen, shortened
from distmeta.config.bounds import NonNegativeCount, PositiveCount, Seconds, Tasks, Text

_MAX_WORKERS = 100_000
AUTO = "auto"


class ToleranceConfig(Frozen):
    """Failures and slow workers: timeouts, limits, backup copies. None of these fields changes the result.

    Attributes:
        shard_timeout_s: Seconds without a result after which a shard's worker is replaced and the shard is retried.
        heartbeat_timeout_s: Seconds without a heartbeat after which a worker is replaced.
        max_shard_retries: Retries of one shard before the run fails with the worker's error.
        max_worker_failures: Consecutive failures of a worker, without a finished shard in between, after which it is
            excluded.
        speculate: At the end of a step, also assign the slowest shards to idle workers (backup copies); the first
            result is used.
        aggregate: Where updates are summed: in the driver as they arrive, or in groups on the nodes of their workers,
            which transfers fewer bytes. `auto` is `node` for large updates from several nodes. Leaders add groups
            anyway; with `node` they also add groups of these.
    """

    shard_timeout_s: Seconds = 600.0
    heartbeat_timeout_s: Seconds = 15.0
    max_shard_retries: NonNegativeCount = 3
    max_worker_failures: PositiveCount = 3
    speculate: bool = True
    aggregate: Literal["auto", "driver", "node"] = "auto"


class PartitionConfig(Frozen):
    """Where each rank of a worker keeps its part of the frozen weights. Does not change the result.

    Attributes:
        offload: On the worker's device (`none`), in main memory (`cpu`), or in files (`nvme`).
        nvme_path: Folder of these files, on a disk of each worker's node.
    """

    offload: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: Text | None = None

    @model_validator(mode="after")
    def _files_have_a_folder(self) -> Self:
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise ValueError("partition.nvme_path is the folder of partition.offload 'nvme'; set both or neither")
        return self


class RuntimeConfig(Frozen):
    """Where shards are computed. None of these fields changes the result, except `shard_size` and `device`.

    Attributes:
        executor: This process (`local`) or Ray actors (`ray`).
        workers: Number of Ray actors, or `MIN..MAX` for a cluster that grows and shrinks. Training starts with MIN
            workers and adds others up to MAX when the cluster has room. It continues with fewer when workers are lost.
            `auto` is `1..MAX` with as many as the nodes of the cluster have room for when the run starts: on `cuda` one
            for each GPU, unless `gpus_per_worker` says otherwise.
        cpus_per_worker: CPUs that Ray reserves for each actor.
        gpus_per_worker: GPUs that Ray reserves for each actor; fractions share one.
        leaders: Number of actors that stand between the driver and the workers: each hands groups of shards to its own
            workers and reports their sum. `auto` is none below 64 workers, else one for each 32, or one a host with 8
            workers where updates are large; 0 is none.
        ranks: Number of actors of each worker, which hold a frozen backbone in parts (DeepSpeed ZeRO-3) and compute
            every shard together.
        partition: Where each of them keeps its part.
        threads_per_worker: Number of threads of a worker. Each of them, or as many as `engine.threads_per_chunk`,
            compute one chunk of tasks at a time.
        shard_size: Number of tasks in a shard, which one worker computes and sums.
        address: Address of a running Ray cluster; None takes RAY_ADDRESS, or starts a local cluster.
        device: Device of the workers: `cpu`, `cuda` or `cuda:N`.
        tolerance: Timeouts, failure limits, and backup copies of slow shards.
    """

    executor: Literal["local", "ray"] = "ray"
    workers: int | str = 2
    cpus_per_worker: float = Field(1.0, gt=0.0, le=10_000.0)
    gpus_per_worker: float = Field(0.0, ge=0.0, le=1000.0)
    leaders: Literal["auto"] | int = "auto"
    ranks: int = Field(1, gt=0, le=1024)
    partition: PartitionConfig = PartitionConfig()
    threads_per_worker: int = Field(1, gt=0, le=1024)
    shard_size: Tasks = 16
    address: Text | None = None
    device: Text = "cpu"
    tolerance: ToleranceConfig = ToleranceConfig()

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, workers: object) -> int | str:
        if workers == AUTO:
            return AUTO
        text = str(workers) if isinstance(workers, str) or workers in range(1, _MAX_WORKERS + 1) else ""
        match = re.fullmatch(r"([1-9]\d{0,5})(?:\.\.([1-9]\d{0,5}))?", text, re.ASCII)
        if match is None or not int(match[1]) <= int(match[2] or match[1]) <= _MAX_WORKERS:
            allowed = f"a whole number from 1 to {_MAX_WORKERS}, MIN..MAX, or auto"
            raise ValueError(f"{shortened(workers)} is not a number of workers; allowed: {allowed}")
        return text if match[2] else int(match[1])

    @property
    def min_workers(self) -> int:
        """Number of workers to start with."""
        if self.workers == AUTO:
            return 1
        return self.workers if isinstance(self.workers, int) else int(self.workers.partition("..")[0])

    @property
    def max_workers(self) -> int:
        """Number of workers if the cluster has room for them; that of `auto` is known once the cluster is."""
        if self.workers == AUTO:
            return 1
        return self.workers if isinstance(self.workers, int) else int(self.workers.partition("..")[2])

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
            raise ValueError(f"unknown device {shortened(device)}; allowed: cpu, cuda, cuda:N")
        return device

    @model_validator(mode="after")
    def _gpus_are_used(self) -> Self:
        if self.gpus_per_worker and self.device == "cpu":
            raise ValueError("runtime.gpus_per_worker reserves a GPU but runtime.device is 'cpu'; set it to 'cuda'")
        return self

    @field_validator("leaders", mode="before")
    @classmethod
    def _leaders_are_a_number(cls, leaders: object) -> object:
        text = str(leaders)
        if text == "auto" or (not isinstance(leaders, bool) and re.fullmatch(r"\d{1,4}", text, re.ASCII)):
            return text if text == "auto" else int(text)
        raise ValueError(f"{shortened(leaders)} is not a number of leaders; allowed: auto, or a number below 10000")

    @model_validator(mode="after")
    def _leaders_have_workers(self) -> Self:
        if self.leaders in ("auto", 0):
            return self
        if self.executor != "ray":
            raise ValueError(f"runtime.leaders {self.leaders} needs runtime.executor 'ray'; allowed here: auto, 0")
        if self.ranks > 1:
            raise ValueError(f"runtime.leaders {self.leaders} needs runtime.ranks 1; allowed here: auto, 0")
        if self.workers != AUTO and int(self.leaders) > self.min_workers:
            raise ValueError(
                f"runtime.leaders {self.leaders} needs as many workers at least, runtime.workers is {self.workers}; "
                f"allowed here: auto, or 0 to {self.min_workers}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_make_the_same_calls(self) -> Self:
        if self.ranks > 1 and self.executor != "ray":
            raise ValueError(f"runtime.ranks {self.ranks} needs runtime.executor 'ray'; allowed here: 1")
        if self.ranks > 1 and self.threads_per_worker > 1:
            raise ValueError(
                f"runtime.ranks {self.ranks} needs runtime.threads_per_worker 1: ranks make the same calls in the "
                f"same order, which {self.threads_per_worker} threads do not"
            )
        if self.ranks > 1 and self.device != "cpu" and (self.device != "cuda" or self.gpus_per_worker < 1.0):
            raise ValueError(
                f"runtime.ranks {self.ranks} on '{self.device}' needs a GPU for each rank; "
                "allowed: runtime.device 'cuda' and runtime.gpus_per_worker 1"
            )
        return self
