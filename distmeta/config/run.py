"""The whole configuration of a run, and the checks that need more than one section."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from distmeta.config.algorithm import AlgorithmConfig, GradientConfig, OuterConfig
from distmeta.config.base import Frozen
from distmeta.config.models import Conv4Config, ModelConfig
from distmeta.config.tasks import SinusoidTasks, StoreTasks, TasksConfig


class EngineConfig(Frozen):
    """How a shard of tasks is computed on one device.

    Attributes:
        strategy: One task after the other (`loop`), or the tasks of a chunk at once (`vmap`); either as native code
            (`compiled`, `compiled_vmap`). `auto` times them on the first shard and fixes the fastest for the run.
        chunk: Tasks at once with `vmap` and `compiled_vmap`; None takes the whole shard.
        memory: Keep what the way back through adaptation needs (`unrolled`), or only the states between inner steps,
            computing the rest again (`flat`): the same gradient in memory that hardly grows with the number of steps.
            `auto` is `flat` beyond 16 inner steps.
        dtype: Floating-point type of parameters and data.
        matmul: How float32 products are computed: exactly, or with factors rounded to `tf32` (CUDA) or `bf16`, at an
            error that `jobs/benchmarks/precision.py` measures.
    """

    strategy: Literal["auto", "loop", "vmap", "compiled", "compiled_vmap"] = "auto"
    chunk: PositiveInt | None = None
    memory: Literal["auto", "unrolled", "flat"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    matmul: Literal["float32", "tf32", "bf16"] = "float32"


class RuntimeConfig(Frozen):
    """Where shards are computed. None of these fields changes the result, except `shard_size` and `device`.

    Attributes:
        executor: This process (`local`) or Ray actors (`ray`).
        workers: Ray actors: a number, or `MIN..MAX` for a cluster that grows and shrinks. Training begins with MIN of
            them and takes in others, up to MAX, as there is room; either way it goes on with those that are left.
        cpus_per_worker, gpus_per_worker: Shares of a machine that Ray reserves for each actor.
        threads_per_worker: Tasks, or chunks of tasks, in flight in one worker (also in `local`), each on a thread.
        shard_size: Tasks summed together by one worker.
        address: Address of a running Ray cluster; None takes RAY_ADDRESS, or starts a local cluster.
        device: Device of the workers.
        shard_timeout_s: After this long without an answer, a shard's worker is replaced and the shard re-run.
        heartbeat_timeout_s: After this long without a sign of life, a worker is replaced, whatever it was doing.
        max_shard_retries: Failures of one shard before the run stops with the worker's own error.
        max_worker_failures: Failures in a row, without a shard in between, after which a worker is left out.
        aggregate: Where updates are added: by the driver as they come, or in groups on the nodes of their workers, so
            that fewer bytes travel. `auto` is `node` for large updates of several nodes. The bits are the same.
        speculate: Give the slowest shards at the end of a step to idle workers as well; the first report wins.
    """

    executor: Literal["local", "ray"] = "ray"
    workers: int | str = 2
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: float = Field(0.0, ge=0.0)
    threads_per_worker: PositiveInt = 1
    shard_size: PositiveInt = 16
    address: str | None = None
    device: str = "cpu"
    shard_timeout_s: PositiveFloat = 600.0
    heartbeat_timeout_s: PositiveFloat = 15.0
    max_shard_retries: NonNegativeInt = 3
    max_worker_failures: PositiveInt = 3
    speculate: bool = True
    aggregate: Literal["auto", "driver", "node"] = "auto"

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


class TrainConfig(Frozen):
    """The outer loop.

    Attributes:
        steps: Outer steps.
        tasks_per_step: Tasks of one outer step (the meta-batch).
        budget_s: Stop early once the outer steps have taken this many seconds (evaluation and start-up not counted).
        log_every: Steps between two records of the training metrics.
    """

    steps: PositiveInt = 1000
    tasks_per_step: PositiveInt = 32
    budget_s: PositiveFloat | None = None
    log_every: PositiveInt = 10


class EvaluationConfig(Frozen):
    """Evaluation on unseen tasks.

    Attributes:
        every: Outer steps between two evaluations; 0 evaluates only at the end.
        split: Tasks of the evaluations during training, `val` or `test`.
        tasks: Tasks of an evaluation during training.
        final_tasks: Tasks of the evaluation on `test` at the end; 0 leaves it out.
    """

    every: NonNegativeInt = 0
    split: Literal["val", "test"] = "val"
    tasks: PositiveInt = 200
    final_tasks: NonNegativeInt = 600


class CheckpointConfig(Frozen):
    """Checkpoints.

    Attributes:
        path: Folder (any fsspec URL) that holds a folder for each run name.
        every: Outer steps between two checkpoints; the last step is always saved.
        keep_last: Checkpoints kept, the newest ones; the best one by validation is kept besides.
    """

    path: str = "runs"
    every: PositiveInt = 500
    keep_last: PositiveInt = 2


class TrackingConfig(Frozen):
    """Where the run can be watched.

    Attributes:
        kind: `mlflow`, or `none`.
        uri: MLflow's tracking URI; None takes MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db` in the working folder
            (in a Ray job, whose working folder is thrown away, in DISTMETA_HOME).
        experiment: MLflow experiment.
        model: Log the final model as a pyfunc that adapts and predicts.
    """

    kind: Literal["mlflow", "none"] = "mlflow"
    uri: str | None = None
    experiment: str = "distmeta"
    model: bool = True


class RunConfig(Frozen):
    """Everything that determines a run. `name` is also the folder of its checkpoints."""

    name: str
    seed: NonNegativeInt = 0
    tasks: TasksConfig = StoreTasks()
    model: ModelConfig = Conv4Config()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    outer: OuterConfig = OuterConfig()
    engine: EngineConfig = EngineConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            raise ValueError(
                f"'{name}' is not a run name: letters, digits, '.', '_' and '-', starting with a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        learner, tasks = self.algorithm.learner, self.tasks
        if isinstance(tasks, SinusoidTasks):
            if self.model.kind != "mlp":
                raise ValueError(f"model.kind '{self.model.kind}' cannot take the sinusoid's single number; use 'mlp'")
            if learner.kind == "prototype":
                raise ValueError(
                    "algorithm.learner.kind 'prototype' needs classes; tasks.source 'sinusoid' is regression"
                )
        elif not isinstance(learner, GradientConfig) or learner.head == "fresh":
            pass
        elif tasks.train_way not in (None, tasks.way):
            raise ValueError(
                f"tasks.train_way {tasks.train_way} differs from tasks.way {tasks.way}: a learner with one output "
                "per class cannot change their number; allowed: the same number, or learner 'prototype'"
            )
        elif tasks.joint:
            raise ValueError("tasks.joint trains a head over all classes: set algorithm.learner.head to 'fresh'")
        if tasks.joint and self.algorithm.estimator.kind == "displacement":
            raise ValueError("tasks.joint has nothing to adapt on in training; use algorithm.estimator.kind 'backprop'")
        estimator = self.algorithm.estimator
        exact = estimator.kind == "backprop" and estimator.order == 2
        if isinstance(learner, GradientConfig) and learner.learned_lr and not exact:
            raise ValueError(
                "algorithm.learner.learned_lr needs the exact gradient, else the rates never move; "
                "use algorithm.estimator.kind 'backprop' with order 2"
            )
        if self.outer.staleness is not None:
            if exact and isinstance(learner, GradientConfig):
                raise ValueError(
                    "outer.staleness mixes gradients of several versions, which an exact second-order gradient is not "
                    "worth; use algorithm.estimator.kind 'displacement', or 'backprop' with order 1"
                )
            if self.outer.parts > 1:
                raise ValueError("outer.staleness works with one server only; set outer.parts to 1")
        if self.runtime.gpus_per_worker and self.runtime.device == "cpu":
            raise ValueError("runtime.gpus_per_worker reserves a GPU but runtime.device is 'cpu'; set it to 'cuda'")
        return self
