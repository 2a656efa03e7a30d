"""Scores of adaptation curves, against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, MlpConfig, Phase
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.engine.lanes import Lanes
from distmeta.methods.learners.base import Learner, Stage
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.network import Network
from distmeta.program.scoring import Score, Scorer, ShardScores, headline, scored_points, summarise

from ...adapting import query_term
from ...numerics.problems import classification, gradient, mlp, perturbed


@pytest.mark.parametrize(
    ("num_steps", "points"),
    [
        (0, (0,)),
        (1, (0, 1)),
        (5, (0, 1, 2, 3, 4, 5)),
        (10, tuple(range(11))),
        (11, tuple(range(12))),
        (20, (*range(11), 20)),
        (130, (*range(11), 20, 50, 100, 130)),
        (2000, (*range(11), 20, 50, 100, 200, 500, 1000, 2000)),
    ],
)
def test_points_are_dense_up_to_ten_and_end_with_the_last_step(num_steps: int, points: tuple[int, ...]) -> None:
    assert scored_points(num_steps) == points
    assert scored_points(num_steps, curve=False) == (points[0], points[-1])[: len(points)]


class CountingLearner(Learner):
    """Its adapted state and every output are the number of inner steps so far."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(build_backbone(MlpConfig(hidden=()), (1,), {HEAD: 1}))
        self._num_steps = num_steps

    def start(self, net: Network, meta: Params, task: Episode) -> Tensor:
        return task.support.inputs.sum() * 0

    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        return [Stage()] * self._num_steps

    def advance(self, net: Network, meta: Params, fast: Tensor, batch: Batch, kind: int, scalars: Tensor) -> Tensor:
        return fast + 1

    def predict(
        self, net: Network, meta: Params, fast: Tensor, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        assert list(task.roles) == [SUPPORT], "predictions do not see the queries' targets"
        return inputs * 0 + fast

    def forward(self, net: Network, meta: Params, inputs: Tensor, *, head: str = HEAD) -> Tensor:
        raise AssertionError("not used")

    def displacement(self, meta: Params, fast: Tensor) -> Params:
        raise AssertionError("not used")


def constant_tasks(targets: list[float]) -> Episode:
    """Regression tasks with two queries, whose targets are equal."""
    values = torch.tensor(targets)[:, None, None].expand(-1, 2, 1)
    inputs = torch.ones(len(targets), 2, 1)
    return Episode({SUPPORT: Batch(inputs, inputs), QUERY: Batch(inputs, values)})


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(
    "engine", [EngineConfig(strategy="loop"), EngineConfig(strategy="vmap"), EngineConfig(strategy="vmap", chunk=2)]
)
def test_the_query_set_is_scored_after_every_point(engine: EngineConfig, lanes: int) -> None:
    learners = {"inductive": CountingLearner(3), "transductive": CountingLearner(0)}
    scorer = Scorer(learners, query_term("mse"), engine, Lanes(lanes))
    result = scorer.score(learners["inductive"].init(0), constant_tasks([0.0, 1.0, 3.0]))
    assert result.points == {"inductive": (0, 1, 2, 3), "transductive": (0,)}
    curves = result.scores["inductive"]["loss"]
    assert curves.dtype == np.float64
    assert curves.tolist() == [[0, 1, 4, 9], [1, 0, 1, 4], [9, 4, 1, 0]]
    assert result.scores["transductive"]["loss"].tolist() == [[0], [1], [9]]


def test_without_a_curve_the_ends_are_scored() -> None:
    learner = CountingLearner(3)
    scorer = Scorer({"inductive": learner}, query_term("mse"), EngineConfig(strategy="loop"), Lanes(1), curve=False)
    result = scorer.score(learner.init(0), constant_tasks([0.0, 1.0]))
    assert result.points == {"inductive": (0, 3)}
    assert result.scores["inductive"]["loss"].tolist() == [[0, 9], [1, 4]]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "learner",
    [gradient(mlp(), Phase(lr=0.2, steps=3)), gradient(mlp(), Phase(lr=0.2, steps=2), head="fresh")],
    ids=["meta", "fresh"],
)
def test_all_strategies_score_alike(learner: Learner) -> None:
    meta, episodes, scores = perturbed(learner.init(0)), classification(6, tasks=3), {}
    for strategy in ("loop", "vmap", "compiled", "compiled_vmap"):
        config = EngineConfig.model_validate({"strategy": strategy})
        scorer = Scorer({"inductive": learner}, query_term(), config, Lanes(1))
        scores[strategy] = scorer.score(meta, episodes)
        again = scorer.score(meta, episodes)
        for metric, values in scores[strategy].scores["inductive"].items():
            assert np.array_equal(again.scores["inductive"][metric], values)
    for result in scores.values():
        assert result.points == scores["loop"].points
        for metric, values in scores["loop"].scores["inductive"].items():
            np.testing.assert_allclose(result.scores["inductive"][metric], values, rtol=1e-12)


def shard_scores(*accuracies: tuple[float, float]) -> ShardScores:
    """Accuracies before and after two inner steps, one pair for each task; the loss is 1 - accuracy."""
    values = np.array(accuracies)
    return ShardScores({"inductive": (0, 2)}, {"inductive": {"loss": 1 - values, "accuracy": values}})


def test_means_and_intervals_are_over_the_tasks_of_all_shards() -> None:
    scores = summarise([shard_scores((0.2, 0.5), (0.4, 0.9)), shard_scores((0.6, 1.0))])
    assert [(score.protocol, score.metric, score.points, score.tasks) for score in scores] == [
        ("inductive", "loss", (0, 2), 3),
        ("inductive", "accuracy", (0, 2), 3),
    ]
    # Deviations from the means 0.4 and 0.8: (-0.2, 0, 0.2) and (-0.3, 0.1, 0.2); divided by 3 - 1 tasks.
    stds = math.sqrt(0.08 / 2), math.sqrt(0.14 / 2)
    accuracy = scores[1]
    assert accuracy.mean == pytest.approx((0.4, 0.8), rel=1e-12)
    assert accuracy.interval == pytest.approx([1.96 * std / math.sqrt(3) for std in stds], rel=1e-12)
    assert scores[0].mean == pytest.approx((0.6, 0.2), rel=1e-12)
    assert scores[0].interval == pytest.approx(accuracy.interval, rel=1e-12)


def test_an_infinite_score_has_no_interval_and_no_warning() -> None:
    values = np.array([[1.0, math.inf], [3.0, 2.0]])
    (score,) = summarise([ShardScores({"inductive": (0, 1)}, {"inductive": {"loss": values}})])
    assert score.mean == (2.0, math.inf)
    assert math.isnan(score.interval[1])


def test_the_interval_of_a_single_task_is_zero() -> None:
    assert summarise([shard_scores((0.2, 0.5))])[1].interval == (0.0, 0.0)


def score(protocol: str, metric: str, after: float = 0.75) -> Score:
    return Score(protocol, metric, (0, 1, 5), (0.25, 0.5, after), (0.1, 0.2, 0.3), 40)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("transductive", ("transductive", "accuracy")),
        ("inductive", ("inductive", "loss")),
        (None, ("transductive", "accuracy")),
    ],
)
def test_the_headline_is_accuracy_or_else_the_first_metric(protocol: str | None, expected: tuple[str, str]) -> None:
    scores = [score("transductive", "loss"), score("transductive", "accuracy"), score("inductive", "loss")]
    result = headline(scores, protocol)
    assert (result.protocol, result.metric) == expected


def test_a_score_as_json() -> None:
    expected: dict[str, Any] = {
        "protocol": "inductive",
        "metric": "accuracy",
        "tasks": 40,
        "before": 0.25,
        "after": 0.75,
        "interval": 0.3,
        "points": [0, 1, 5],
        "mean": [0.25, 0.5, 0.75],
        "half_width": [0.1, 0.2, 0.3],
    }
    assert score("inductive", "accuracy").to_json() == expected
