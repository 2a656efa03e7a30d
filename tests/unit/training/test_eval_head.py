"""A method whose queries go through a head of another name: everything that evaluates it gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distmeta
from distmeta.adapt.load import AdaptableLearner
from distmeta.config import (
    AlgorithmConfig,
    Conv4Config,
    EngineConfig,
    EvaluateConfig,
    EvaluationConfig,
    GlyphTasks,
    GradientConfig,
    MlpConfig,
    Phase,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    Term,
    TrackingConfig,
    TrainConfig,
)
from distmeta.core.types import Params, Snapshot, Work
from distmeta.program.program import EVALUATE, MetaProgram
from distmeta.training import pictures, train
from distmeta.training.pictures import keep_pictures

from ...fakes_training import FakeTracker

WAVES: dict[str, Any] = {
    "tasks": SinusoidTasks(shots=3, queries=4, eval_queries=5),
    "model": MlpConfig(hidden=(6,)),
    "engine": EngineConfig(strategy="loop", dtype="float64"),
    "runtime": RuntimeConfig(executor="local", shard_size=4),
}


def through(head: str) -> AlgorithmConfig:
    """MAML whose inner steps and queries go through a head of this name."""
    phase = Phase(lr=0.05, steps=2, head=head)
    return AlgorithmConfig(learner=GradientConfig(phases=(phase,)), terms=(Term(head=head),))


def beside(**evaluate: Any) -> AlgorithmConfig:
    """The same through `aux`, beside a joint term through `head`; `evaluate` sets what differs at evaluation."""
    algorithm = through("aux")
    terms = (Term(at="meta"), *algorithm.terms)
    return algorithm.model_copy(update={"terms": terms, "evaluate": EvaluateConfig(**evaluate)})


def config_of(algorithm: AlgorithmConfig, **sections: Any) -> RunConfig:
    return RunConfig(name="heads", algorithm=algorithm, **{**WAVES, **sections})


def renamed(params: Params, **names: str) -> Params:
    """The parameters with other names of heads."""
    parts = {name: name.split(".") for name in params}
    return {".".join((names.get(parts[name][0], parts[name][0]), *parts[name][1:])): params[name] for name in params}


@pytest.fixture
def build() -> Iterator[Callable[[RunConfig], MetaProgram]]:
    made: list[MetaProgram] = []

    def build(config: RunConfig) -> MetaProgram:
        made.append(MetaProgram(config))
        return made[-1]

    yield build
    for program in made:
        program.close()


def losses(program: MetaProgram, params: Params) -> list[list[float]]:
    """[T, P] losses of test tasks."""
    (shard,) = program.source.shards("test", 0, 3, 4)
    scores = program.run(Work(EVALUATE), Snapshot(0, params), shard).scores
    curves: list[list[float]] = scores["inductive"]["loss"].tolist()
    return curves


Build = Callable[[RunConfig], MetaProgram]
ALGORITHMS = {"its only head": through("aux"), "one of two heads": beside()}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_scores_are_those_of_the_head_that_the_term_on_queries_names(name: str, build: Build) -> None:
    program, plain = build(config_of(ALGORITHMS[name])), build(config_of(through("head")))
    params = program.algorithm.learner.init(3)
    same = renamed(params, head="other", aux="head")
    same = {name: same[name] for name in plain.algorithm.learner.init(0)}
    assert losses(program, params) == losses(plain, same)


def test_evaluation_can_go_through_another_head(build: Build) -> None:
    program = build(config_of(beside(head="head")))
    params = {**program.algorithm.learner.init(3), "head.weight": torch.zeros(1, 6, dtype=torch.float64)}
    # Inner steps go through `aux` and leave `head` as it is, so that its outputs stay zero.
    assert all(len(set(curve)) == 1 for curve in losses(program, params))
    assert all(len(set(curve)) > 1 for curve in losses(build(config_of(beside())), params))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loaded_learners_and_loops_of_ones_own_predict_through_it(name: str) -> None:
    config, plain = config_of(ALGORITHMS[name]), config_of(through("head"))
    loop, other = distmeta.build(config), distmeta.build(plain)
    params = loop.init(3)
    same = renamed(params, head="other", aux="head")
    x, q = np.array([[0.3], [-1.0]]), np.array([[0.7], [2.0], [1.0]])
    adapted = AdaptableLearner(config, loop.signature, params).adapt(x, x)(q)
    assert adapted.tolist() == AdaptableLearner(plain, other.signature, same).adapt(x, x)(q).tolist()
    for steps in (None, 0, 3):
        task = loop.adapt(params, torch.tensor(x), torch.tensor(x), steps=steps)
        expected = other.adapt(same, torch.tensor(x), torch.tensor(x), steps=steps)
        assert torch.equal(loop.predict(task, torch.tensor(q)), other.predict(expected, torch.tensor(q)))


def test_pictures_go_through_it(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[pictures.plots.Fit]] = []
    monkeypatch.setattr(pictures.plots, "regression_fits", lambda path, fits: (path.touch(), drawn.append(fits)))
    program, plain = build(config_of(beside())), build(config_of(through("head")))
    params = program.algorithm.learner.init(3)
    for each, values in ((program, params), (plain, renamed(params, head="other", aux="head"))):
        keep_pictures(each, values, (), "inductive", FakeTracker(), tmp_path)
    for fit, expected in zip(*drawn, strict=True):
        assert fit.predictions.keys() == expected.predictions.keys() == {0, 1, 2}
        for steps, values in fit.predictions.items():
            np.testing.assert_array_equal(values, expected.predictions[steps])


def test_a_learner_without_terms_on_queries_is_scored_through_the_head_of_its_inner_steps(build: Build) -> None:
    tuned = EvaluateConfig(learner=GradientConfig(phases=(Phase(groups=("new",), steps=3, head="new"),), head="fresh"))
    learner = GradientConfig(phases=(Phase(steps=0),))
    joint = AlgorithmConfig(learner=learner, terms=(Term(role="source", at="meta"),), evaluate=tuned)
    sections = {"tasks": GlyphTasks(way=3, size=16, eval_queries=2), "model": Conv4Config(filters=2)}
    program = build(config_of(joint, **sections))
    assert program.algorithm.eval_head == "new"
    (shard,) = program.source.shards("test", 0, 3, 4)
    params = program.algorithm.learner.init(3)
    scores = program.run(Work(EVALUATE), Snapshot(0, params), shard).scores["transductive"]["accuracy"]
    assert scores[:, 0].tolist() == pytest.approx([1 / 3] * 3)  # a head of zeros names the first class


def test_a_run_ends_with_scores_and_a_checkpoint_that_adapts(tmp_path: Path) -> None:
    config = config_of(
        beside(steps=3),
        train=TrainConfig(steps=2, tasks_per_step=4),
        evaluation=EvaluationConfig(every=1, tasks=4, final_tasks=4),
        tracking=TrackingConfig(kind="none"),
    )
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"path": str(tmp_path)})})
    result = train(config, quiet=True)
    assert [score.points for score in result.scores] == [(0, 1, 2, 3)]
    learner = distmeta.load(str(tmp_path / "heads"))
    assert learner.adapt([[0.5]], [[1.0]])([[0.1], [0.2]]).shape == (2, 1)


def test_the_number_of_classes_is_kept_where_the_head_of_evaluation_does_not_start_anew() -> None:
    tasks = GlyphTasks(way=3, size=16)
    phase = Phase(groups=("body",), head="aux")
    algorithm = AlgorithmConfig(learner=GradientConfig(phases=(phase,), head="fresh"), terms=(Term(),))
    loop = distmeta.build(config_of(algorithm, tasks=tasks, model=Conv4Config(filters=2)))
    learner = AdaptableLearner(loop.config, loop.signature, loop.init(0))
    assert learner.way == 3
