"""The program of a worker: make the episodes of a shard, then compute their update, score them, or time strategies.

Workers get a `MetaRecipe` (the run's configuration as JSON), and each builds a `MetaProgram` from it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distmeta.analysis.layers import ShardSums, sums_of_shard
from distmeta.config import CheckpointConfig, EngineConfig, RunConfig, TrackingConfig
from distmeta.core import code, ranks
from distmeta.core.errors import UserError
from distmeta.core.types import OUTSIDE, Episode, Params, Report, Shard, Snapshot, TaskSpec, Work
from distmeta.engine.auto import Choice, choose_by_shapes
from distmeta.engine.engine import Engine, is_compiled, lift_of, possible_strategies
from distmeta.engine.lanes import Lanes, lanes_for
from distmeta.engine.measured import choose_by_time
from distmeta.engine.precision import check_policy
from distmeta.engine.ranks import RankLanes
from distmeta.methods.build import build_algorithm, dtype_of, protocol_of
from distmeta.methods.estimators.base import Moment
from distmeta.program.recorded import AGAIN, CURVATURE, RECORD, TRIAL, RecordedWork
from distmeta.program.scoring import Scorer, ShardScores
from distmeta.program.zero import ADVANCE, COLLECT, LOAD, GroupTraining
from distmeta.tasks import build_source
from distmeta.tasks.prefetch import Prefetcher

UPDATE, EVALUATE, CHOOSE, ANALYSE = "update", "evaluate", "choose", "analyse"


def lanes_of(config: RunConfig) -> int:
    """Number of lanes of a worker: chunks of tasks that it computes at a time (`distmeta.engine.lanes`)."""
    return lanes_for(config.runtime.device, config.runtime.threads_per_worker, config.engine.threads_per_chunk)


def threads_of(config: RunConfig) -> int:
    """Number of threads that compute in a worker."""
    return lanes_of(config) * config.engine.threads_per_chunk


def lanes_in(config: RunConfig) -> Lanes:
    """The lanes of this process: those of a worker, or that of a rank of it."""
    if ranks.current.world > 1:
        return RankLanes(ranks.current)
    return Lanes(lanes_of(config), config.engine.threads_per_chunk)


@dataclass(frozen=True)
class Request:
    """Arguments of a handler.

    Attributes:
        work: Name of the work.
        engine: Engine settings.
        version: Version of the snapshot.
        shard: Index of the shard.
        meta: Meta-parameters and running statistics, on this worker's device.
        episodes: T tasks, on this worker's device.
        moment: What else an estimate depends on.
    """

    work: str
    engine: EngineConfig
    version: int
    shard: int
    meta: Params
    episodes: Episode
    moment: Moment


class MetaProgram:
    """A method with its tasks and engines, in one process.

    Args:
        config: The run.

    Raises:
        UserError: The device does not support `engine.matmul`, or tasks, network and method do not fit together.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        check_policy(config.engine.matmul, config.runtime.device, dtype_of(config))
        self.source = build_source(config.tasks, config.seed, dtype_of(config))
        self.algorithm = build_algorithm(config, self.source.signature)
        _check_strategy(config.engine, self.algorithm.learner.limits)
        self._engines: dict[EngineConfig, Engine] = {}
        self._scorers: dict[EngineConfig, Scorer] = {}
        self._lanes = lanes_in(config)
        self._prefetcher = Prefetcher(self.episodes, pinned=config.runtime.device != "cpu")
        self._timing = {"data_wait_s": 0.0, "compute_s": 0.0}
        self._group: GroupTraining | None = None
        self._recorded: RecordedWork | None = None
        self._on_device: tuple[Snapshot, Params] | None = None  # the last snapshot and its copy on the device

    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        """Build tasks of one split with the roles that the method reads, and those that evaluation scores besides."""
        split = specs[0].split
        roles = self.algorithm.roles(split)
        if split != "train" and OUTSIDE in self.source.roles(split):
            roles = tuple(dict.fromkeys((*roles, OUTSIDE)))
        return self.source.episodes(specs, roles)

    def prepare(self, work: Work, shard: Shard) -> None:
        """Start making the shard's episodes on a background thread."""
        self._prefetcher.prepare(shard)

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        """Call the handler of `work` (see `HANDLERS`) on the shard; returns a `Report`, `ShardScores`, `Choice`
        or `ShardSums`.

        Requests of `distmeta.program.zero` have no tasks: the ranks know those of each step.
        """
        if work.name in (LOAD, ADVANCE, COLLECT):
            return self._run_group(work, snapshot)
        episodes, wait_s = self._prefetcher.take(shard)
        started = time.perf_counter()
        meta, device = self._to_device(snapshot), self._config.runtime.device
        episodes = episodes if device == "cpu" else episodes.map(lambda tensor: tensor.to(device, non_blocking=True))
        engine = self._engine_config(work)
        moment = Moment(snapshot.version, episodes.seeds, self._moved(shard.carry), self._moved(snapshot.extra))
        value = HANDLERS[work.name](
            self, Request(work.name, engine, snapshot.version, shard.index, meta, episodes, moment)
        )
        self._timing = {"data_wait_s": wait_s, "compute_s": time.perf_counter() - started}
        return value

    def _run_group(self, work: Work, snapshot: Snapshot) -> Any:
        started = time.perf_counter()
        if self._group is None:
            group = replace(ranks.current, device=self._config.runtime.device)
            self._group = GroupTraining(self._config, self.source, self.algorithm, self._prefetcher, group)
        value = self._group.run(work.name, snapshot, self._engine_config(work))
        self._timing = {"data_wait_s": self._group.wait_s, "compute_s": time.perf_counter() - started}
        return value

    def _engine_config(self, work: Work) -> EngineConfig:
        return work.engine if isinstance(work.engine, EngineConfig) else self._config.engine

    def update(self, request: Request) -> Report:
        engine = self._engine(request.engine)
        update, carry = engine.update(request.meta, request.episodes, request.moment)
        carries = {request.shard: {name: tensor.cpu() for name, tensor in carry.items()}} if carry else {}
        return Report(request.version, request.shard, update, carries=carries)

    def on_recorded(self, request: Request) -> Report:
        """Answer a request of `distmeta.program.recorded`."""
        if self._recorded is None:
            self._recorded = RecordedWork(self.algorithm.learner, self.algorithm.terms)
        engine = self._engine(request.engine)
        step = Moment(request.version, request.moment.seeds, request.moment.carry)
        answer = self._recorded.answers[request.work]
        return answer(engine, request.meta, request.episodes, step, request.shard, request.moment.extra or {})

    def evaluate(self, request: Request) -> ShardScores:
        return self._scorer(request.engine).score(request.meta, request.episodes)

    def choose(self, request: Request) -> Choice:
        """Time the engine's strategies on this shard and choose one for the whole run."""
        config, algorithm = self._config, self.algorithm
        method = json.dumps([config.algorithm.model_dump(mode="json"), config.model.model_dump(mode="json")])
        # Tasks of the whole run, not of this worker, so that the choice does not depend on the number of workers.
        tasks = config.train.steps * config.train.tasks_per_step
        return choose_by_time(
            algorithm.learner,
            algorithm.estimator,
            algorithm.terms,
            request.engine,
            lanes_of(config),
            request.meta,
            request.episodes,
            method=method,
            tasks_ahead=tasks,
            seconds_ahead=config.train.budget_s or math.inf,
            device=config.runtime.device,
        )

    def analyse(self, request: Request) -> ShardSums:
        """Sums of the outputs of layers (`distmeta.analysis`); further views are in the snapshot's `extra`."""
        learner = self.algorithm.evaluators[protocol_of(self.algorithm)]
        others = dict(request.moment.extra or {})
        head, matmul = self.algorithm.eval_head, request.engine.matmul
        return sums_of_shard(learner, request.meta, others, request.episodes, matmul, head)

    def choose_by_shapes(self) -> Choice:
        """Choose the engine's strategy by the network, the shapes of a training task and the workers' device."""
        config, learner = self._config, self.algorithm.learner
        episodes, vmap = self.episodes(self.source.specs("train", 0, 1)), "vmap" not in learner.limits
        meta, device = learner.init(config.seed), config.runtime.device
        return choose_by_shapes(config.engine, meta, episodes, vmap=vmap, device=device)

    def timing(self) -> Mapping[str, float]:
        """Seconds of the last `run`: `data_wait_s`, `compute_s`."""
        return self._timing

    def close(self) -> None:
        """End background threads."""
        self._prefetcher.close()
        self._lanes.close()
        if self._group is not None:
            self._group.close()
        for engine in self._engines.values():
            engine.close()

    def _engine(self, config: EngineConfig) -> Engine:
        if config not in self._engines:
            algorithm = self.algorithm
            # Ranks share the lanes' order of calls; threads of an engine are its own.
            lanes = self._lanes if ranks.current.world > 1 else lanes_of(self._config)
            self._engines[config] = Engine(algorithm.learner, algorithm.estimator, algorithm.terms, config, lanes)
        return self._engines[config]

    def _scorer(self, config: EngineConfig) -> Scorer:
        if config not in self._scorers:
            algorithm, run = self.algorithm, self._config
            stream, curve = run.algorithm.evaluate.stream, run.evaluation.curve
            self._scorers[config] = Scorer(
                algorithm.evaluators, algorithm.scored, config, self._lanes, stream, curve=curve
            )
        return self._scorers[config]

    def _to_device(self, snapshot: Snapshot) -> Params:
        if self._on_device is None or self._on_device[0] is not snapshot:
            self._on_device = snapshot, self._moved({**snapshot.params, **snapshot.buffers})
        return self._on_device[1]

    def _moved(self, tensors: Params) -> Params:
        device = self._config.runtime.device
        return tensors if device == "cpu" else {name: tensor.to(device) for name, tensor in tensors.items()}


def _check_strategy(config: EngineConfig, limits: Mapping[str, str]) -> None:
    """Check that the network supports a strategy that was asked for.

    Raises:
        UserError: It does not.
    """
    allowed = ", ".join(("auto", "measured", *possible_strategies(limits)))
    if lift_of(config.strategy) == "vmap" and "vmap" in limits:
        what = f"'{config.strategy}' needs vmap, which does not know an operation of the network ({limits['vmap']})"
        raise UserError(what, where="engine.strategy", allowed=allowed)
    if is_compiled(config) and "compile" in limits:
        what = f"'{config.strategy}' compiles the network, which cannot be compiled ({limits['compile']})"
        raise UserError(what, where="engine.strategy", allowed=allowed)


HANDLERS: dict[str, Callable[[MetaProgram, Request], Any]] = {
    UPDATE: MetaProgram.update,
    RECORD: MetaProgram.on_recorded,
    AGAIN: MetaProgram.on_recorded,
    CURVATURE: MetaProgram.on_recorded,
    TRIAL: MetaProgram.on_recorded,
    EVALUATE: MetaProgram.evaluate,
    CHOOSE: MetaProgram.choose,
    ANALYSE: MetaProgram.analyse,
}
"""Handlers by `Work.name`."""


@dataclass(frozen=True)
class MetaRecipe:
    """Picklable description of a program: the run's configuration as JSON, and where users' own code lies."""

    config_json: str
    folder: str

    @staticmethod
    def of(config: RunConfig) -> MetaRecipe:
        """The recipe of a run, without what only its driver needs: addresses may hold passwords."""
        local = {"tracking": TrackingConfig(kind="none"), "checkpoint": CheckpointConfig()}
        return MetaRecipe(config.model_copy(update=local).model_dump_json(), os.getcwd())

    def build(self) -> MetaProgram:
        if self.folder not in code.search_path:
            code.search_path.append(self.folder)
        importlib.import_module("torch._dynamo")  # the first derivative would, when the collector no longer waits
        return MetaProgram(RunConfig.model_validate_json(self.config_json))
