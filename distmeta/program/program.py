"""What a worker does with a shard: make its episodes, then compute their update, score them, or choose an engine.

A `MetaRecipe` (the configuration as JSON) travels to the workers; each builds a `MetaProgram` from it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distmeta.config import EngineConfig, RunConfig
from distmeta.core.types import Episode, Params, Report, Shard, Snapshot, Work
from distmeta.engine.auto import Choice, choose
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes
from distmeta.engine.precision import check_policy
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.program.scoring import ShardScores, score_shard
from distmeta.tasks import build_source
from distmeta.tasks.prefetch import Prefetcher

UPDATE, EVALUATE, CHOOSE = "update", "evaluate", "choose"


def lanes_of(config: RunConfig) -> int:
    """Number of chunks that one worker computes at a time."""
    return config.runtime.threads_per_worker if config.runtime.device == "cpu" else 1


@dataclass(frozen=True)
class Request:
    """A shard on this worker's device, with what it is to be computed from and how.

    Attributes:
        engine: Engine settings.
        version: Version of the snapshot.
        shard: Index of the shard.
        meta: Meta-parameters.
        episodes: T tasks.
    """

    engine: EngineConfig
    version: int
    shard: int
    meta: Params
    episodes: Episode


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

    def prepare(self, work: Work, shard: Shard) -> None:
        """Make the shard's episodes on a background thread."""
        self._prefetcher.prepare(shard)

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        """Compute what `HANDLERS` has for the work: a `Report`, `ShardScores`, a `Choice`."""
        episodes, wait_s = self._prefetcher.take(shard)
        started = time.perf_counter()
        meta, device = self._on_device(snapshot), self._config.runtime.device
        episodes = episodes if device == "cpu" else episodes.map(lambda tensor: tensor.to(device, non_blocking=True))
        engine = work.engine if isinstance(work.engine, EngineConfig) else self._config.engine
        value = HANDLERS[work.name](self, Request(engine, snapshot.version, shard.index, meta, episodes))
        self._timing = {"data_wait_s": wait_s, "compute_s": time.perf_counter() - started}
        return value

    def update(self, request: Request) -> Report:
        engine = self._engine(request.engine)
        return Report(request.version, request.shard, engine.update(request.meta, request.episodes))

    def evaluate(self, request: Request) -> ShardScores:
        return score_shard(self.algorithm.evaluators, request.meta, request.episodes, request.engine, self._lanes)

    def choose(self, request: Request) -> Choice:
        """Time the engine's strategies on this shard and choose one for the run."""
        config, algorithm = self._config, self.algorithm
        method = json.dumps([config.algorithm.model_dump(mode="json"), config.model.model_dump(mode="json")])
        # Tasks of the whole run, not of this worker: the choice must not depend on the number of workers.
        tasks = config.train.steps * config.train.tasks_per_step
        return choose(
            algorithm.learner,
            algorithm.estimator,
            request.engine,
            lanes_of(config),
            request.meta,
            request.episodes,
            method=method,
            tasks_ahead=tasks,
            seconds_ahead=config.train.budget_s or math.inf,
        )

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`."""
        return self._timing

    def close(self) -> None:
        """End background threads."""
        self._prefetcher.close()
        self._lanes.close()
        for engine in self._engines.values():
            engine.close()

    def _engine(self, config: EngineConfig) -> Engine:
        if config not in self._engines:
            algorithm = self.algorithm
            self._engines[config] = Engine(algorithm.learner, algorithm.estimator, config, lanes_of(self._config))
        return self._engines[config]

    def _on_device(self, snapshot: Snapshot) -> Params:
        device = self._config.runtime.device
        if device == "cpu":
            return snapshot.params
        if self._placed is None or self._placed[0] is not snapshot:
            self._placed = snapshot, {name: tensor.to(device) for name, tensor in snapshot.params.items()}
        return self._placed[1]


HANDLERS: dict[str, Callable[[MetaProgram, Request], Any]] = {
    UPDATE: MetaProgram.update,
    EVALUATE: MetaProgram.evaluate,
    CHOOSE: MetaProgram.choose,
}
"""What a worker can be asked for, by `Work.name`."""


@dataclass(frozen=True)
class MetaRecipe:
    """A program on the wire: the run's configuration as JSON."""

    config_json: str

    @staticmethod
    def of(config: RunConfig) -> MetaRecipe:
        return MetaRecipe(config.model_dump_json())

    def build(self) -> MetaProgram:
        return MetaProgram(RunConfig.model_validate_json(self.config_json))
