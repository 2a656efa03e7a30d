"""The program of a worker: its handlers, prefetching, engines, and the recipe that it is built from."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from distmeta.analysis.layers import ShardSums, sums_of_shard
from distmeta.config import (
    CheckpointConfig,
    EngineConfig,
    MlpConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Report, Shard, Snapshot, TaskSpec, Work
from distmeta.engine.auto import Choice
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes
from distmeta.methods import maml
from distmeta.models.mlp import Mlp
from distmeta.program import program as module
from distmeta.program.program import ANALYSE, CHOOSE, EVALUATE, HANDLERS, UPDATE, MetaProgram, MetaRecipe
from distmeta.program.recorded import AGAIN, CURVATURE, RECORD, TRIAL
from distmeta.program.scoring import Scorer, ShardScores
from distmeta.tasks.base import TaskSource

LOOP = EngineConfig(strategy="loop", dtype="float64")


def make_config(**sections: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "tasks": SinusoidTasks(shots=3, queries=4, eval_queries=5),
        "model": MlpConfig(hidden=(6,)),
        "algorithm": maml(lr=0.01, eval_steps=2),
        "engine": LOOP,
        "train": TrainConfig(steps=3, tasks_per_step=8),
        "runtime": RuntimeConfig(executor="local", shard_size=4),
    }
    return RunConfig(name="program", seed=5, **{**defaults, **sections})


@pytest.fixture
def program() -> Iterator[MetaProgram]:
    program = MetaProgram(make_config())
    yield program
    program.close()


def snapshot_of(program: MetaProgram, version: int = 7) -> Snapshot:
    return Snapshot(version, program.algorithm.learner.init(1))


def shards_of(program: MetaProgram, split: str = "train") -> tuple[Shard, ...]:
    return program.source.shards(split, 0, 8, 4)


def same_scores(left: ShardScores, right: ShardScores) -> bool:
    assert left.points == right.points
    return all(
        (values == right.scores[protocol][metric]).all()
        for protocol, metrics in left.scores.items()
        for metric, values in metrics.items()
    )


def test_update_is_the_engines_update_of_the_shard(program: MetaProgram) -> None:
    snapshot, shard = snapshot_of(program), shards_of(program)[1]
    report = program.run(Work(UPDATE, LOOP), snapshot, shard)
    assert isinstance(report, Report)
    assert (report.version, report.shard, report.finite, report.count) == (7, 1, None, 1)
    algorithm = program.algorithm
    engine = Engine(algorithm.learner, algorithm.estimator, algorithm.terms, LOOP)
    expected, _ = engine.update(snapshot.params, program.source.episodes(shard.specs))
    assert (report.update.weight, report.update.metrics) == (4.0, expected.metrics)
    assert all(torch.equal(report.update.grad[name], grad) for name, grad in expected.grad.items())


def test_evaluate_scores_the_shard_under_every_protocol(program: MetaProgram) -> None:
    snapshot, shard = snapshot_of(program), shards_of(program, "test")[0]
    scores = program.run(Work(EVALUATE, LOOP), snapshot, shard)
    assert isinstance(scores, ShardScores)
    scorer = Scorer(program.algorithm.evaluators, program.algorithm.scored, LOOP, Lanes(1))
    assert same_scores(scores, scorer.score(snapshot.params, program.source.episodes(shard.specs)))


def test_choose_times_strategies_for_the_whole_run(program: MetaProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice("vmap", None, "unrolled", {"vmap": 0.1}, {}, 0.5)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def fake_choose(*arguments: Any, **options: Any) -> Choice:
        calls.append((arguments, options))
        return choice

    monkeypatch.setattr(module, "choose_by_time", fake_choose)
    snapshot, shard = snapshot_of(program), shards_of(program)[0]
    measured = EngineConfig(strategy="measured", dtype="float64")
    assert program.run(Work(CHOOSE, measured), snapshot, shard) is choice
    [(arguments, options)] = calls
    algorithm = program.algorithm
    assert arguments[:5] == (algorithm.learner, algorithm.estimator, algorithm.terms, measured, 1)
    assert all(arguments[5][name] is tensor for name, tensor in snapshot.params.items())
    assert arguments[6].num_tasks == 4
    assert (options["tasks_ahead"], options["seconds_ahead"], options["device"]) == (3 * 8, math.inf, "cpu")
    assert "maml" in options["method"] and '"mlp"' in options["method"]


def test_analyse_sums_the_layers_of_the_shard(program: MetaProgram) -> None:
    snapshot, shard = snapshot_of(program), shards_of(program, "test")[0]
    sums = program.run(Work(ANALYSE, LOOP), snapshot, shard)
    learner = next(iter(program.algorithm.evaluators.values()))
    expected = sums_of_shard(learner, snapshot.params, {}, program.source.episodes(shard.specs), LOOP.matmul)
    assert isinstance(sums, ShardSums)
    assert list(sums.layers) == list(expected.layers) != []
    for name, layer in expected.layers.items():
        found = sums.layers[name]
        assert (found.tasks, found.samples) == (layer.tasks, layer.samples)
        assert torch.equal(torch.as_tensor(found.products), torch.as_tensor(layer.products))


def test_every_handler_has_a_test_here() -> None:
    elsewhere = {RECORD, AGAIN, CURVATURE, TRIAL}  # tests/numerics/test_trust_region.py, test_epochs.py
    assert set(HANDLERS) == {UPDATE, EVALUATE, CHOOSE, ANALYSE} | elsewhere


def test_work_without_engine_settings_uses_those_of_the_run(program: MetaProgram) -> None:
    snapshot, shard = snapshot_of(program), shards_of(program)[0]
    default, explicit = (program.run(Work(UPDATE, engine), snapshot, shard) for engine in (None, LOOP))
    assert all(torch.equal(default.update.grad[name], grad) for name, grad in explicit.update.grad.items())


class CountingSource(TaskSource):
    """Another source's tasks; remembers which thread made them."""

    def __init__(self, source: TaskSource) -> None:
        self._source, self.seed = source, source.seed
        self.made: list[tuple[tuple[TaskSpec, ...], bool]] = []

    def episodes(self, specs: Sequence[TaskSpec], roles: Sequence[str] = (SUPPORT, QUERY)) -> Episode:
        self.made.append((tuple(specs), threading.current_thread() is threading.main_thread()))
        return self._source.episodes(specs, roles)

    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        return self._source.batches(split, seeds, roles)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[MetaProgram, CountingSource]]:
    sources: list[CountingSource] = []
    build = module.build_source

    def build_counting(*arguments: Any) -> TaskSource:
        source = CountingSource(build(*arguments))
        source.input_shape, source.objective = source._source.input_shape, source._source.objective
        source.num_outputs, source.train_outputs = source._source.num_outputs, source._source.train_outputs
        sources.append(source)
        return source

    monkeypatch.setattr(module, "build_source", build_counting)
    program = MetaProgram(make_config())
    yield program, sources[0]
    program.close()


def test_prepared_episodes_are_made_once_and_on_another_thread(counting: tuple[MetaProgram, CountingSource]) -> None:
    program, source = counting
    snapshot, (first, second) = snapshot_of(program), shards_of(program)
    work = Work(UPDATE, LOOP)
    program.prepare(work, first)
    prepared = program.prepare(work, second)
    assert prepared is None
    while len(source.made) < 2:
        threading.Event().wait(0.001)
    reports = [program.run(work, snapshot, shard) for shard in (first, second)]
    assert source.made == [(first.specs, False), (second.specs, False)]
    again = program.run(work, snapshot, first)
    assert source.made[2:] == [(first.specs, True)]
    assert all(torch.equal(again.update.grad[name], grad) for name, grad in reports[0].update.grad.items())


def test_timing_is_that_of_the_last_run(program: MetaProgram) -> None:
    assert program.timing() == {"data_wait_s": 0.0, "compute_s": 0.0}
    program.run(Work(UPDATE, LOOP), snapshot_of(program), shards_of(program)[0])
    timing = program.timing()
    assert set(timing) == {"data_wait_s", "compute_s"}
    assert timing["compute_s"] > 0 and timing["data_wait_s"] > 0


def test_engines_are_kept_by_their_settings(program: MetaProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[EngineConfig] = []
    closed: list[EngineConfig] = []

    class RecordingEngine(Engine):
        def __init__(self, learner: Any, estimator: Any, terms: Any, config: EngineConfig, lanes: int = 1) -> None:
            super().__init__(learner, estimator, terms, config, lanes)
            self.config = config
            made.append(config)

        def close(self) -> None:
            closed.append(self.config)
            super().close()

    monkeypatch.setattr(module, "Engine", RecordingEngine)
    vmap = EngineConfig(strategy="vmap", dtype="float64")
    for engine in (LOOP, vmap, LOOP, LOOP.model_copy()):
        program.run(Work(UPDATE, engine), snapshot_of(program), shards_of(program)[0])
    assert made == [LOOP, vmap]
    program.close()
    assert closed == [LOOP, vmap]


def test_close_ends_all_threads() -> None:
    before = set(threading.enumerate())
    program = MetaProgram(make_config(runtime=RuntimeConfig(executor="local", shard_size=4, threads_per_worker=2)))
    snapshot, (first, second) = snapshot_of(program), shards_of(program)
    program.prepare(Work(UPDATE, LOOP), second)
    program.run(Work(UPDATE, LOOP), snapshot, first)
    program.run(Work(EVALUATE, LOOP), snapshot, first)
    assert len(set(threading.enumerate()) - before) > 2, "prefetching, and lanes of the engine and of evaluation"
    program.close()
    assert set(threading.enumerate()) == before


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"^engine\.matmul: cpu does not support tf32 products"):
        MetaProgram(make_config(engine=EngineConfig(strategy="loop", matmul="tf32")))


def test_a_recipe_builds_the_same_program_elsewhere(program: MetaProgram) -> None:
    recipe = pickle.loads(pickle.dumps(MetaRecipe.of(make_config())))
    other = recipe.build()
    snapshot, shard = snapshot_of(program), shards_of(program)[0]
    reports = [each.run(Work(UPDATE, LOOP), snapshot, shard) for each in (program, other)]
    other.close()
    assert all(torch.equal(reports[1].update.grad[name], grad) for name, grad in reports[0].update.grad.items())


def test_a_recipe_holds_no_address_of_stores() -> None:
    tracking = TrackingConfig(uri="https://user:secret@host")
    recipe = MetaRecipe.of(make_config(tracking=tracking, checkpoint=CheckpointConfig(path="s3://bucket/private")))
    assert "secret" not in recipe.config_json
    assert "private" not in recipe.config_json


@pytest.mark.parametrize(
    ("limit", "strategy", "message"),
    [
        ("vmap", "vmap", r"'vmap' needs vmap, .* \(why\); allowed: auto, measured, loop, compiled$"),
        ("vmap", "compiled_vmap", r"'compiled_vmap' needs vmap, .* \(why\); allowed: auto, measured, loop, compiled$"),
        ("compile", "compiled", r"'compiled' compiles the network, .* \(why\); allowed: auto, measured, loop, vmap$"),
    ],
)
def test_a_strategy_that_the_network_does_not_support_is_refused(
    limit: str, strategy: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mlp, "limits", {limit: "why"})
    with pytest.raises(UserError, match=rf"^engine\.strategy: {message}"):
        MetaProgram(make_config(engine=EngineConfig.model_validate({"strategy": strategy})))
