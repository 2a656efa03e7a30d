from __future__ import annotations

import pytest
import torch

from distmeta.config import GradientConfig, MlpConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Batch
from distmeta.methods.learners.gradient import RATE_PREFIX, GradientLearner
from distmeta.models import build_backbone
from distmeta.models.base import Backbone


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone(MlpConfig(hidden=(5, 4)), (3,), 2, torch.float64)


@pytest.fixture
def support() -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(6, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0]))


def make_learner(backbone: Backbone, *phases: Phase, evaluating: bool = False, **settings: object) -> GradientLearner:
    config = GradientConfig.model_validate({"phases": phases, **settings})
    return GradientLearner(config, backbone, "cross_entropy", evaluating=evaluating)


def test_only_the_groups_of_the_phases_move(backbone: Backbone, support: Batch) -> None:
    learner = make_learner(backbone, Phase(groups=("block2",)), Phase(groups=("head",), steps=2))
    meta = backbone.init(0)
    fast = learner.adapt(meta, support)
    assert learner.num_steps == 3
    assert set(fast.moved) == {"block2.weight", "block2.bias", "head.weight", "head.bias"}
    after_first = learner.step(meta, learner.start(meta, support), support, 0).moved
    assert torch.equal(after_first["head.weight"], meta["head.weight"])
    assert not torch.equal(after_first["block2.weight"], meta["block2.weight"])
    assert torch.equal(fast.moved["block2.weight"], after_first["block2.weight"])
    displacement = learner.displacement(meta, fast)
    assert {name for name, tensor in displacement.items() if tensor.any()} == set(fast.moved)


def test_evaluation_phases_are_for_evaluation(backbone: Backbone) -> None:
    phases, longer = Phase(steps=2), (Phase(steps=7),)
    assert make_learner(backbone, phases, eval_phases=longer).num_steps == 2
    assert make_learner(backbone, phases, eval_phases=longer, evaluating=True).num_steps == 7
    assert make_learner(backbone, phases, evaluating=True).num_steps == 2


def test_without_steps_it_predicts_with_the_meta_parameters(backbone: Backbone, support: Batch) -> None:
    learner, meta = make_learner(backbone, Phase(steps=0)), backbone.init(0)
    fast = learner.adapt(meta, support)
    assert torch.equal(learner.predict(meta, fast, support, support.inputs), learner.forward(meta, support.inputs))


def test_learned_rates_start_from_the_rates_of_their_phases(backbone: Backbone) -> None:
    learner = make_learner(backbone, Phase(groups=("body",), lr=0.2), Phase(groups=("head",), lr=0.3), learned_lr=True)
    params = learner.init(0)
    rates = {name: tensor for name, tensor in params.items() if name.startswith(RATE_PREFIX)}
    assert set(rates) == {RATE_PREFIX + name for name in backbone.groups()["all"]}
    for name, tensor in rates.items():
        assert tensor.shape == params[name.removeprefix(RATE_PREFIX)].shape
        assert bool((tensor == (0.3 if "head" in name else 0.2)).all())


def test_mini_batches_cycle_through_the_support_set(backbone: Backbone, support: Batch) -> None:
    learner, meta = make_learner(backbone, Phase(batch=4, steps=3)), backbone.init(0)
    manual, fast = learner.start(meta, support), learner.adapt(meta, support)
    whole = make_learner(backbone, Phase())
    for rows in ([0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]):
        manual = whole.step(meta, manual, support.map(lambda tensor, rows=rows: tensor[rows]), 0)
    assert all(torch.equal(fast.moved[name], manual.moved[name]) for name in fast.moved)


@pytest.mark.parametrize(
    ("phase", "where", "message"),
    [
        (Phase(groups=("heads",)), "algorithm.learner.phases.0.groups", "unknown parameter group 'heads'"),
        (Phase(objective="mean"), "algorithm.learner.phases.0.objective", "unknown objective 'mean'"),
    ],
)
def test_unknown_groups_and_objectives_are_refused(backbone: Backbone, phase: Phase, where: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_learner(backbone, phase)
    assert where in str(caught.value)
