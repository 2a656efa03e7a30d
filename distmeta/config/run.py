"""The configuration of a run, and checks that involve more than one section."""

from __future__ import annotations

import re
from typing import Self

from pydantic import field_validator, model_validator

from distmeta.config.algorithm import AlgorithmConfig
from distmeta.config.base import Frozen, shortened
from distmeta.config.bounds import MAX_SHARD_EXAMPLES, Seed
from distmeta.config.checkpoint import CheckpointConfig
from distmeta.config.engine import EngineConfig
from distmeta.config.evaluation import EvaluationConfig
from distmeta.config.models import Conv4Config, ModelConfig
from distmeta.config.outer import OuterConfig
from distmeta.config.runtime import RuntimeConfig
from distmeta.config.tasks import StoreTasks, TasksConfig
from distmeta.config.tracking import TrackingConfig
from distmeta.config.train import TrainConfig


class RunConfig(Frozen):
    """Everything that determines a run.

    Attributes:
        name: The run's name in reports and in MLflow, and the folder of its checkpoints.
        seed: Seed of the initial meta-parameters and of all tasks.
    """

    name: str
    seed: Seed = 0
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
            allowed = "at most 128 letters, digits, '.', '_' and '-', starting with a letter or digit"
            raise ValueError(f"{shortened(name)} is not a run name; allowed: {allowed}")
        return name

    @model_validator(mode="after")
    def _a_shard_fits_into_memory(self) -> Self:
        most_tasks = max(self.train.tasks_per_step, self.evaluation.tasks, self.evaluation.final_tasks)
        of_a_task = self.tasks.max_examples or 1  # tasks of a user's that declare nothing are checked when built
        examples = min(self.runtime.shard_size, most_tasks) * of_a_task
        if examples > MAX_SHARD_EXAMPLES:
            raise ValueError(
                f"runtime.shard_size {self.runtime.shard_size} puts {examples} examples into a shard, "
                f"{of_a_task} of each task; allowed: at most {MAX_SHARD_EXAMPLES}"
            )
        return self

    @model_validator(mode="after")
    def _patience_has_evaluations(self) -> Self:
        if self.train.patience is not None and (not self.evaluation.every or self.evaluation.split != "val"):
            raise ValueError(
                f"train.patience {self.train.patience} counts evaluations on the split 'val', of which there are none; "
                "set evaluation.every, with evaluation.split 'val'"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        """Compare what the sections declare about themselves."""
        learner, estimator, tasks = self.algorithm.learner, self.algorithm.estimator, self.tasks
        if self.model.needs_images and not tasks.has_images:
            raise ValueError(
                f"model.kind '{self.model.kind}' needs images, but tasks.source '{tasks.source}' has numbers; use 'mlp'"
            )
        takes_numbers = self.model.takes_numbers and tasks.has_numbers
        if not (takes_numbers or (self.model.takes_texts and tasks.has_texts)):
            given = "numbers" if tasks.has_numbers else "texts"
            raise ValueError(
                f"model.kind '{self.model.kind}' does not take {given}, which tasks.source '{tasks.source}' has; "
                "'transformer' goes with 'texts'"
            )
        evaluated = self.algorithm.evaluated_learner()
        for field, each in (("algorithm.learner", learner), ("algorithm.evaluate.learner", evaluated)):
            if each.needs_classes and not tasks.has_classes:
                raise ValueError(
                    f"{field}.kind '{each.kind}' needs classes, but tasks.source '{tasks.source}' is regression"
                )
            if each.needs_names and not tasks.has_texts:
                raise ValueError(f"{field}.head 'label_words' needs texts, but tasks.source '{tasks.source}' has none")
        if learner.keeps_outputs and self.algorithm.adapts and tasks.changes_outputs:
            raise ValueError(
                "tasks.train_way differs from tasks.way: a learner with one output per class cannot change their "
                "number; allowed: the same number, or learner 'prototype', 'neighbours' or 'ridge'"
            )
        if self.outer.staleness is not None and estimator.is_exact and learner.num_steps:
            raise ValueError(
                "outer.staleness mixes gradients of several versions, so an exact second-order gradient does not pay; "
                "use algorithm.estimator.kind 'displacement', or 'backprop' with order 1"
            )
        return self

    @model_validator(mode="after")
    def _windows_have_successors(self) -> Self:
        outer = self.outer
        if self.algorithm.estimator.window is not None and outer.procedure != "synchronous":
            raise ValueError(
                "algorithm.estimator.window keeps a state from step to step, which outer.staleness, outer.zero, "
                "outer.trust_region and outer.epochs do not; use none of these, or null for the window"
            )
        return self

    @model_validator(mode="after")
    def _leaders_have_groups(self) -> Self:
        if self.runtime.leaders not in ("auto", 0) and self.outer.procedure != "synchronous":
            raise ValueError(
                f"runtime.leaders {self.runtime.leaders} adds groups of a step's shards, which outer.staleness, "
                "outer.zero, outer.trust_region and outer.epochs do not have; allowed here: auto, 0"
            )
        return self

    @model_validator(mode="after")
    def _ranks_have_what_to_hold(self) -> Self:
        ranks, strategy = self.runtime.ranks, self.engine.strategy
        if ranks > 1 and not self.model.has_frozen and self.outer.zero is None:
            raise ValueError(
                f"runtime.ranks {ranks} divides frozen weights, of which model.kind '{self.model.kind}' has none; "
                "allowed: 1 (more workers compute more tasks at a time), or outer.zero"
            )
        if ranks > 1 and strategy not in ("auto", "loop", "vmap"):
            raise ValueError(
                f"engine.strategy '{strategy}' cannot gather the weights that runtime.ranks {ranks} divides; "
                "allowed: auto, loop, vmap"
            )
        return self

    @model_validator(mode="after")
    def _chunks_share_the_threads_of_a_worker(self) -> Self:
        of_chunk, of_worker = self.engine.threads_per_chunk, self.runtime.threads_per_worker
        if of_worker % of_chunk:
            allowed = ", ".join(str(count) for count in range(1, of_worker + 1) if of_worker % count == 0)
            raise ValueError(
                f"engine.threads_per_chunk {of_chunk} does not divide runtime.threads_per_worker {of_worker}; "
                f"allowed: {allowed}"
            )
        if of_chunk > 1 and self.runtime.device != "cpu":
            raise ValueError(
                f"engine.threads_per_chunk {of_chunk} is not for runtime.device '{self.runtime.device}'; allowed: 1"
            )
        return self

    @model_validator(mode="after")
    def _zero_has_one_worker(self) -> Self:
        zero, runtime, workers = self.outer.zero, self.runtime, self.runtime.workers
        if zero is None:
            return self
        if runtime.executor == "ray" and workers != 1:
            raise ValueError(
                f"outer.zero {zero} keeps the meta-parameters in one worker, but runtime.workers is {workers}; "
                "allowed: 1, of several runtime.ranks"
            )
        if runtime.threads_per_worker > 1:
            raise ValueError(f"outer.zero {zero} needs runtime.threads_per_worker 1: its ranks make the same calls")
        if self.algorithm.estimator.is_exact and self.algorithm.learner.num_steps:
            raise ValueError(
                f"outer.zero {zero} takes signals of first order; use algorithm.estimator.kind 'displacement', or "
                "'backprop' with order 1"
            )
        if self.algorithm.fixed:
            raise ValueError(
                f"outer.zero {zero} steps all meta-parameters as one vector, but algorithm.fixed takes "
                f"{', '.join(self.algorithm.fixed)} out; allowed: algorithm.fixed [], or outer.zero null"
            )
        if self.engine.dtype != "float32":
            raise ValueError(f"outer.zero {zero} needs engine.dtype 'float32', not '{self.engine.dtype}'")
        return self
