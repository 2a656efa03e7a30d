from __future__ import annotations

import pytest
import torch

from distmeta.config import GradientConfig, MlpConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Episode, Term
from distmeta.methods.estimators.outer_loss import outer_loss
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models import build_backbone


@pytest.fixture
def learner() -> GradientLearner:
    backbone = build_backbone(MlpConfig(hidden=(4,)), (3,), 2, torch.float64)
    return GradientLearner(GradientConfig(phases=(Phase(),)), backbone, "cross_entropy", evaluating=False)


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(4, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 1, 0]))


def test_metrics_of_later_terms_have_their_number_as_prefix(learner: GradientLearner) -> None:
    meta, support = learner.init(0), batch(0)
    fast = learner.adapt(meta, support)
    first, second = Term(batch(1)), Term(batch(2), weight=0.25, adapted=False)
    total, metrics = outer_loss(learner, meta, fast, Episode(support, (first, second)))
    first_loss, _ = outer_loss(learner, meta, fast, Episode(support, (first,)))
    # The second term scores the meta-parameters, so it needs no adapted state.
    second_loss, _ = outer_loss(learner, meta, None, Episode(support, (second,)))
    assert set(metrics) == {"loss", "accuracy", "term1/accuracy"}
    assert total.item() == pytest.approx(first_loss.item() + second_loss.item(), rel=1e-14)
    assert metrics["loss"].item() == total.item()


def test_an_unknown_objective_names_its_term(learner: GradientLearner) -> None:
    meta = learner.init(0)
    episode = Episode(batch(0), (Term(batch(1), objective="hinge", adapted=False),))
    with pytest.raises(UserError, match="query term 0"):
        outer_loss(learner, meta, None, episode)
