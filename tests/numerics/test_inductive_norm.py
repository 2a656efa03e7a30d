"""Inductive batch norm: statistics of the support set, so that queries do not influence one another."""

from __future__ import annotations

import pytest
import torch

from distmeta.config import Phase
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.models.base import Backbone

from ..adapting import adapt, predict
from . import networks
from .problems import WAY, classification, conv4, gradient, perturbed, single_tasks

SIDE = 16


def learners(backbone: Backbone) -> dict[str, Learner]:
    return {
        "all move": gradient(backbone, Phase(lr=0.2, steps=2)),
        "the head moves": gradient(backbone, Phase(groups=("head",), lr=0.2, steps=2)),
        "prototypes": PrototypeLearner(backbone, WAY),
    }


@pytest.fixture
def task() -> Episode:
    return single_tasks(classification(1, SIDE, SIDE, tasks=1, queries=2))[0]


def predictions(learner: Learner, meta: Params, task: Episode, inputs: torch.Tensor) -> torch.Tensor:
    return predict(learner, meta, adapt(learner, meta, task.support), task.support, inputs)


@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("kind", ["all move", "the head moves", "prototypes"])
def test_a_prediction_depends_on_its_own_query_only(kind: str, downsample: str, task: Episode) -> None:
    queries = task.query.inputs
    for norm, independent in (("support", True), ("batch", False), ("group", True)):
        backbone = conv4(SIDE, downsample=downsample, norm=norm, filters=16 if norm == "group" else 4)
        learner, meta = learners(backbone)[kind], perturbed(backbone.init(0))
        together = predictions(learner, meta, task, queries)
        alone = torch.cat([predictions(learner, meta, task, query[None]) for query in queries])
        assert torch.allclose(together, alone, rtol=1e-11, atol=1e-11) == independent


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_the_statistics_are_those_of_the_support_set_under_the_adapted_parameters(
    downsample: str, task: Episode
) -> None:
    backbone = conv4(SIDE, downsample=downsample, norm="support")
    learner, meta = learners(backbone)["all move"], perturbed(backbone.init(0))
    adapted = adapt(learner, meta, task.support)
    net = networks.with_values(networks.Conv4(4, 4, WAY, pool=downsample == "pool"), adapted.moved)
    queries = task.query.inputs
    outputs = predict(learner, meta, adapted, task.support, queries)
    with torch.no_grad():
        expected = net.inductive(task.support.inputs, queries)
    torch.testing.assert_close(outputs, expected, rtol=1e-11, atol=1e-12)


def test_adaptation_does_not_depend_on_the_protocol(task: Episode) -> None:
    """In inner steps, the support set is both the batch and the source of the statistics."""
    transductive, inductive = conv4(SIDE, norm="batch"), conv4(SIDE, norm="support")
    meta = perturbed(transductive.init(0))
    left, right = (
        adapt(gradient(backbone, Phase(lr=0.2, steps=2)), meta, task.support).moved
        for backbone in (transductive, inductive)
    )
    assert all(torch.equal(left[name], right[name]) for name in left)
