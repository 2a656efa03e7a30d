from __future__ import annotations

import pytest
import torch

from distmeta.config import GradientConfig, MlpConfig, Phase
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.objectives import cross_entropy
from distmeta.methods.terms import OuterTerm, outer_loss, terms_at
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.network import Network

from ...adapting import adapt


@pytest.fixture
def learner() -> GradientLearner:
    backbone = build_backbone(MlpConfig(hidden=(4,)), (3,), {HEAD: 2}, torch.float64)
    return GradientLearner(GradientConfig(phases=(Phase(),)), backbone, "cross_entropy")


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(4, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 1, 0]))


def test_metrics_of_later_terms_have_their_number_as_prefix(learner: GradientLearner) -> None:
    meta, net, task = learner.init(0), Network(learner.backbone), Episode({SUPPORT: batch(0), QUERY: batch(1)})
    fast = adapt(learner, meta, task.support)
    first = OuterTerm(QUERY, cross_entropy)
    second = OuterTerm(SUPPORT, cross_entropy, weight=0.25, at="meta")
    both = terms_at((first, second), "last")
    total, metrics = outer_loss(learner, net, meta, fast, task, both)
    first_loss, _ = outer_loss(learner, net, meta, fast, task, both[:1])
    # The second term scores the meta-parameters, so it needs no adapted state.
    second_loss, alone = outer_loss(learner, net, meta, None, task, both[1:])
    assert set(metrics) == {"loss", "accuracy", "term1/accuracy"}
    assert set(alone) == {"loss", "term1/accuracy"}, "the number is the position in the configuration"
    assert total.item() == pytest.approx(first_loss.item() + second_loss.item(), rel=1e-14)
    assert metrics["loss"].item() == total.item()


def test_terms_of_the_meta_parameters_are_scored_with_the_last_ones() -> None:
    terms = tuple(OuterTerm(QUERY, cross_entropy, at=at) for at in ("meta", "each", "last"))
    assert terms_at(terms, "last") == [(0, terms[0]), (2, terms[2])]
    assert terms_at(terms, "each") == [(1, terms[1])]
