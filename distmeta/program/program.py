"""What a worker does with a shard: makes its episodes and computes their update, or scores them.

A `MetaRecipe` (the configuration as JSON) travels to the workers; a `MetaProgram` is made of it there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distmeta.config import EngineConfig, RunConfig
from distmeta.core.types import Episode, Params, Report, Shard, Snapshot
from distmeta.engine.auto import Choice, choose
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes
from distmeta.engine.precision import check_policy
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.program.scoring import score_shard
from distmeta.tasks import build_source
from distmeta.tasks.prefetch import Prefetcher

UPDATE, EVALUATE, CHOOSE = "update", "evaluate", "choose"


def kind_of(name: str, engine: EngineConfig) -> str:
    """What a worker is asked to do, and how: the engine's settings travel with it, as they may be chosen in the run."""
    return f"{name} {engine.model_dump_json()}"


def lanes_of(config: RunConfig) -> int:
    """Chunks in flight in one worker."""
    return config.runtime.threads_per_worker if config.runtime.device == "cpu" else 1


class MetaProgram:
    """A method, its tasks and engines, in one process.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        check_policy(config.engine.matmul, config.runtime.device, dtype_of(config))
        self.source = build_source(config.tasks, config.seed, dtype_of(config))
        self.algorithm = build_algorithm(config, self.source.signature)
        self._engines: dict[EngineConfig, Engine] = {}
        self._lanes = Lanes(lanes_of(config))
        self._prefetcher = Prefetcher(self.source, pinned=config.runtime.device != "cpu")
        self._timing = {"data_wait_s": 0.0, "compute_s": 0.0}
        self._placed: tuple[Snapshot, Params] | None = None

    def prepare(self, kind: str, shard: Shard) -> None:
        """Make the shard's episodes on a background thread."""
        self._prefetcher.prepare(shard)

    def run(self, kind: str, snapshot: Snapshot, shard: Shard) -> Any:
        """The shard's `Report` for kind `update`, its `ShardScores` for `evaluate`, a `Choice` for `choose`."""
        episodes, wait_s = self._prefetcher.take(shard)
        started = time.perf_counter()
        meta, device = self._on_device(snapshot), self._config.runtime.device
        episodes = episodes if device == "cpu" else episodes.map(lambda tensor: tensor.to(device, non_blocking=True))
        name, _, settings = kind.partition(" ")
        engine = EngineConfig.model_validate_json(settings) if settings else self._config.engine
        value: Any
        if name == UPDATE:
            value = Report(snapshot.version, shard.index, self._engine(engine).update(meta, episodes))
        elif name == CHOOSE:
            value = self._choose(engine, meta, episodes)
        else:
            value = score_shard(self.algorithm.evaluators, meta, episodes, engine, self._lanes)
        self._timing = {"data_wait_s": wait_s, "compute_s": time.perf_counter() - started}
        return value

    def _engine(self, config: EngineConfig) -> Engine:
        if config not in self._engines:
            algorithm = self.algorithm
            self._engines[config] = Engine(algorithm.learner, algorithm.estimator, config, lanes_of(self._config))
        return self._engines[config]

    def _choose(self, engine: EngineConfig, meta: Params, episodes: Episode) -> Choice:
        config, algorithm = self._config, self.algorithm
        method = json.dumps([config.algorithm.model_dump(mode="json"), config.model.model_dump(mode="json")])
        # Of the whole run, whoever computes them: the choice must not depend on the number of workers.
        tasks = config.train.steps * config.train.tasks_per_step
        return choose(
            algorithm.learner,
            algorithm.estimator,
            engine,
            lanes_of(config),
            meta,
            episodes,
            method=method,
            tasks_ahead=tasks,
            seconds_ahead=config.train.budget_s or math.inf,
        )

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`."""
        return self._timing

    def _on_device(self, snapshot: Snapshot) -> Params:
        device = self._config.runtime.device
        if device == "cpu":
            return snapshot.params
        if self._placed is None or self._placed[0] is not snapshot:
            self._placed = snapshot, {name: tensor.to(device) for name, tensor in snapshot.params.items()}
        return self._placed[1]


@dataclass(frozen=True)
class MetaRecipe:
    """A program on the wire: the run's configuration as JSON."""

    config_json: str

    @staticmethod
    def of(config: RunConfig) -> MetaRecipe:
        """The recipe of a run."""
        return MetaRecipe(config.model_dump_json())

    def build(self) -> MetaProgram:
        """Make the program."""
        return MetaProgram(RunConfig.model_validate_json(self.config_json))
