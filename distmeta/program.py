"""What a worker does with a shard: makes its episodes and computes their update, or scores them.

A `MetaRecipe` (the configuration as JSON) travels to the workers; a `MetaProgram` is made of it there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distmeta.algorithms import build_algorithm, dtype_of
from distmeta.config import RunConfig
from distmeta.engine.engine import Engine
from distmeta.scoring import score_shard
from distmeta.tasks import build_source
from distmeta.tasks.prefetch import Prefetcher
from distmeta.types import Params, Report, Shard, Snapshot

UPDATE, EVALUATE = "update", "evaluate"


class MetaProgram:
    """A method, its tasks and an engine, in one process.

    Args:
        config: The run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.source = build_source(config.tasks, config.seed, dtype_of(config))
        self.algorithm = build_algorithm(config, self.source.signature)
        self._engine = Engine(self.algorithm.learner, self.algorithm.estimator, config.engine)
        self._prefetcher = Prefetcher(self.source)
        self._timing = {"data_wait_s": 0.0, "compute_s": 0.0}
        self._placed: tuple[Snapshot, Params] | None = None

    def prepare(self, kind: str, shard: Shard) -> None:
        """Make the shard's episodes on a background thread."""
        self._prefetcher.prepare(shard)

    def run(self, kind: str, snapshot: Snapshot, shard: Shard) -> Any:
        """The shard's `Report` for kind `update`, its `ShardScores` for `evaluate`."""
        episodes, wait_s = self._prefetcher.take(shard)
        started = time.perf_counter()
        meta, device = self._on_device(snapshot), self._config.runtime.device
        episodes = episodes if device == "cpu" else episodes.map(lambda tensor: tensor.to(device))
        value: Any
        if kind == UPDATE:
            update = self._engine.update(meta, episodes)
            value = Report(snapshot.version, shard.index, update)
        else:
            engine = self._config.engine
            value = score_shard(self.algorithm.evaluators, meta, episodes, engine.strategy, engine.chunk)
        self._timing = {"data_wait_s": wait_s, "compute_s": time.perf_counter() - started}
        return value

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
