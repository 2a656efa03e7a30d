"""Outer steps that the ranks of a worker make by themselves: they hold the meta-parameters, the driver counts.

    load      take meta-parameters and state of the optimizer
    advance   compute the tasks of a step, and make it
    collect   give back what `load` takes

A step is a pure function of the version before it and of the run's configuration. So a group that has been started anew
is brought to the driver's version by `load` and the steps since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distmeta.config import EngineConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.ranks import Ranks
from distmeta.core.types import Episode, Shard, Snapshot, Update
from distmeta.engine.engine import Engine
from distmeta.engine.ranks import PartitionLanes, RankLanes
from distmeta.engine.zero import PartitionedWeights
from distmeta.methods.build import Algorithm
from distmeta.methods.estimators.base import Moment
from distmeta.server import StepRecord
from distmeta.server.tree import Tree
from distmeta.tasks.base import TaskSource
from distmeta.tasks.prefetch import Prefetcher

LOAD, ADVANCE, COLLECT = "load", "advance", "collect"


@dataclass(frozen=True)
class Behind:
    """The answer of a group that does not have the version which is asked for: it has been started anew."""


@dataclass(frozen=True)
class Nonfinite:
    """The answer of a group whose gradient is not finite: it has not made the step."""


class GroupTraining:
    """The outer loop on one rank. All ranks get the same requests in the same order.

    Args:
        config: The run, with `outer.zero`.
        source: Where its tasks come from.
        algorithm: Its method.
        prefetcher: Makes the episodes.
        group: The ranks.
    """

    def __init__(
        self, config: RunConfig, source: TaskSource, algorithm: Algorithm, prefetcher: Prefetcher, group: Ranks
    ) -> None:
        self._config, self._source, self._algorithm = config, source, algorithm
        self._prefetcher, self._group = prefetcher, group
        self._weights: PartitionedWeights | None = None
        self._engine: tuple[EngineConfig, Engine] | None = None
        self._record: StepRecord | Nonfinite | None = None
        self.wait_s = 0.0

    def run(self, name: str, snapshot: Snapshot, engine: EngineConfig) -> Any:
        """Answer a request (see the top of the file), whose version is that of the snapshot."""
        self.wait_s = 0.0
        requests: dict[str, Callable[[], Any]] = {
            LOAD: lambda: self.load(snapshot),
            ADVANCE: lambda: self.advance(snapshot.version, engine),
            COLLECT: lambda: self.collect(snapshot.version),
        }
        return requests[name]()

    def load(self, snapshot: Snapshot) -> None:
        """Take a version: meta-parameters, and `extra` of the optimizer (`<name>/<key>`)."""
        self.close()
        total_steps, outer = self._config.train.steps, self._config.outer
        self._weights = PartitionedWeights(
            snapshot.params, snapshot.extra, snapshot.version, outer, total_steps, self._group
        )

    def advance(self, version: int, engine: EngineConfig) -> StepRecord | Nonfinite | Behind:
        """Make the version after `version`; a second request for it has the answer of the first."""
        weights = self._weights
        if weights is not None and weights.version == version + 1 and self._record is not None:
            return self._record
        if weights is None or weights.version != version:
            return Behind()
        tree = Tree()
        for index, shard in enumerate(self._shards(version)):
            episodes, wait_s = self._prefetcher.take(shard)
            self.wait_s += wait_s
            ahead = [*self._shards(version)[index + 1 :], *self._shards(version + 1)]
            if ahead:
                self._prefetcher.prepare(ahead[0])
            tree.add(index, self._update(weights, version, episodes, engine))
        self._record = weights.step(tree.total()) or Nonfinite()
        return self._record

    def collect(self, version: int) -> Snapshot | Behind | None:
        """What `load` takes, of this version; None on all ranks but the first."""
        if self._weights is None or self._weights.version != version:
            return Behind()
        found = self._weights.collect()
        return None if found is None else Snapshot(version, found[0], extra=found[1])

    def close(self) -> None:
        """Let go of the meta-parameters."""
        if self._engine is not None:
            self._engine[1].close()
        if self._weights is not None:
            self._weights.close()
        self._weights = self._engine = self._record = None

    def _shards(self, step: int) -> tuple[Shard, ...]:
        train = self._config.train
        if step >= train.steps:
            return ()
        return self._source.shards("train", step, train.tasks_per_step, self._config.runtime.shard_size)

    def _update(self, weights: PartitionedWeights, version: int, episodes: Episode, engine: EngineConfig) -> Update:
        device = self._config.runtime.device
        episodes = episodes if device == "cpu" else episodes.map(lambda tensor: tensor.to(device, non_blocking=True))
        update, carry = self._engine_of(engine, weights).update(
            weights.params, episodes, Moment(version, episodes.seeds, {}, {})
        )
        if carry:
            raise UserError(
                "the estimator keeps a state for each shard, which ranks do not",
                where="outer.zero",
                allowed="null, or an estimator without a state",
            )
        return update

    def _engine_of(self, config: EngineConfig, weights: PartitionedWeights) -> Engine:
        if self._engine is None or self._engine[0] != config:
            # Chunks of one task, unless the configuration says otherwise: the ranks must not change the rounding.
            lanes = RankLanes(self._group, chunk=1)
            if self._config.outer.zero == 2:
                lanes = PartitionLanes(self._group, weights.divide, chunk=1)
            method = self._algorithm
            self._engine = config, Engine(method.learner, method.estimator, method.terms, config, lanes)
        return self._engine[1]
