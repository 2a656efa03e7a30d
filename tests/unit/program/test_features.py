"""Scores from features that are computed once are those of computing them for every task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, NeighbourConfig, Phase, RidgeConfig
from distmeta.core.types import OUTSIDE, Batch, Episode, Params
from distmeta.engine.lanes import Lanes
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.neighbours import NeighbourLearner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.methods.learners.ridge import RidgeLearner
from distmeta.models.base import Backbone, Frame
from distmeta.program import features, scoring
from distmeta.program.features import BATCH, FeatureTable, reads_table
from distmeta.program.scoring import OUTSIDE_AUROC, Scorer, ShardScores, auroc

from ...numerics.petl_problems import KINDS, VOCABULARY, end_to_end, tasks, transformer
from ...numerics.problems import WAY, classification, conv4, gradient, mlp, perturbed, terms_of

TASKS = 6


def prototypes(backbone: Backbone) -> PrototypeLearner:
    return PrototypeLearner(backbone, WAY, scale=3.0)


def scored(learner: Learner, meta: Params, episodes: Episode, strategy: str = "vmap", lanes: int = 1) -> ShardScores:
    config = EngineConfig.model_validate({"strategy": strategy})
    return Scorer({"inductive": learner}, terms_of(episodes), config, Lanes(lanes)).score(meta, episodes)


def texts(dtype: torch.dtype) -> tuple[PrototypeLearner, Params, Episode]:
    """Class means over a small BERT, and tasks whose texts come again in other tasks."""
    network = transformer("bert", KINDS["lora"], dtype=dtype)
    drawn = tasks("bert", tasks=TASKS - 2)
    again = drawn.map(lambda tensor: torch.cat([tensor, tensor[:2]]))
    return prototypes(network), perturbed(network.init(0)), end_to_end(again)


def vectors(dtype: torch.dtype) -> tuple[PrototypeLearner, Params, Episode]:
    network = mlp()
    return prototypes(network), perturbed(network.init(0)), classification(6, tasks=TASKS)


def neighbours(dtype: torch.dtype) -> tuple[Learner, Params, Episode]:
    learner = NeighbourLearner(NeighbourConfig(neighbours=2, context_steps=2), mlp(), WAY)
    return learner, perturbed(learner.init(0)), classification(6, tasks=TASKS)


def ridge(dtype: torch.dtype) -> tuple[Learner, Params, Episode]:
    learner = RidgeLearner(RidgeConfig(), mlp(), WAY)
    return learner, perturbed(learner.init(0)), classification(6, tasks=TASKS)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "compiled"])
@pytest.mark.parametrize("problem", [texts, vectors, neighbours, ridge])
def test_scores_are_those_without_the_table(
    problem: Callable[..., Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, meta, episodes = problem(torch.float64)
    table = scored(learner, meta, episodes, strategy)
    monkeypatch.setattr(scoring, "reads_table", lambda learner: False)
    each = scored(learner, meta, episodes, "loop")
    assert table.points == each.points
    for metric, values in each.scores["inductive"].items():
        np.testing.assert_allclose(table.scores["inductive"][metric], values, rtol=1e-10, atol=1e-12)


def test_a_task_has_the_same_bits_in_any_shard_and_with_any_number_of_lanes() -> None:
    learner, meta, episodes = texts(torch.float32)
    expected = scored(learner, meta, episodes).scores["inductive"]["loss"]
    assert np.array_equal(scored(learner, meta, episodes, lanes=2).scores["inductive"]["loss"], expected)
    scorer = Scorer({"inductive": learner}, terms_of(episodes), EngineConfig(strategy="vmap"), Lanes(1))
    for order in ((3, 4), (0,), (5, 2, 1)):  # what was computed for a shard before is there in the next
        part = scorer.score(meta, episodes.select(order)).scores["inductive"]["loss"]
        assert np.array_equal(part, expected[list(order)])


def test_an_example_is_computed_once_for_each_version(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, meta, episodes = texts(torch.float32)
    batches: list[Tensor] = []
    whole = FeatureTable._features

    def counted(table: FeatureTable, meta: Params, batch: Tensor) -> Tensor:
        batches.append(batch)
        return whole(table, meta, batch)

    monkeypatch.setattr(features.FeatureTable, "_features", counted)
    scorer = Scorer({"inductive": learner}, terms_of(episodes), EngineConfig(strategy="vmap"), Lanes(1))
    first = scorer.score(meta, episodes).scores["inductive"]["loss"]
    rows = {tuple(text.tolist()) for batch in episodes.roles.values() for text in batch.inputs.flatten(0, 1)}
    assert {len(batch) for batch in batches} == {BATCH}
    assert len(batches) == -(-len(rows) // BATCH)
    scorer.score(meta, episodes)
    assert len(batches) == -(-len(rows) // BATCH)
    other = scorer.score({name: tensor + 0.1 for name, tensor in meta.items()}, episodes).scores["inductive"]["loss"]
    assert len(batches) == 2 * -(-len(rows) // BATCH)
    assert not np.allclose(other, first)


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("laid", [end_to_end, lambda episodes: episodes], ids=["end to end", "rows"])
def test_confidences_tell_queries_from_texts_of_no_class(
    has_table: bool, laid: Callable[[Episode], Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "reads_table", lambda learner: has_table)
    network = transformer("bert", KINDS["lora"])
    learner, meta = prototypes(network), perturbed(network.init(0))
    drawn = tasks("bert", tasks=3)
    ids = drawn.query.inputs
    outside = Batch(torch.where(ids > 0, VOCABULARY - ids, 0))
    episodes = laid(Episode({**drawn.roles, OUTSIDE: outside}))
    found = scored(learner, meta, episodes).scores["inductive"][OUTSIDE_AUROC]
    for task in range(3):
        support, targets = drawn.support.inputs[task], drawn.support.targets
        assert targets is not None
        features = network.features(meta, support, Frame())
        means = torch.stack([features[targets[task] == label].mean(0) for label in range(WAY)])
        known, unknown = (
            torch.softmax(-3.0 * torch.cdist(network.features(meta, texts[task], Frame()), means) ** 2, 1).amax(1)
            for texts in (drawn.query.inputs, outside.inputs)
        )
        pairs = [float(k > u) for k in known for u in unknown]
        assert found[task, 0] == pytest.approx(sum(pairs) / len(pairs))
    assert found.min() > 0 and found.max() < 1  # so that the order of pairs matters


def test_learners_that_adapt_the_body_and_networks_that_see_the_batch_have_no_table() -> None:
    assert all(reads_table(problem(torch.float64)[0]) for problem in (vectors, neighbours, ridge))
    assert not reads_table(gradient(mlp(), Phase(lr=0.1)))
    assert not reads_table(prototypes(conv4()))


def test_ties_count_half() -> None:
    positive, negative = torch.tensor([[0.9, 0.5], [0.1, 0.2]]), torch.tensor([[0.5], [0.3]])
    assert auroc(positive, negative).tolist() == [0.75, 0.0]
