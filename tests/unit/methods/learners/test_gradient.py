from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config import AlgorithmConfig, EvaluateConfig, GradientConfig, MlpConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import SUPPORT, Batch, Episode
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.learners.phases import RATE_PREFIX
from distmeta.methods.objectives import OBJECTIVES, Forward
from distmeta.models import build_backbone
from distmeta.models.base import HEAD, Backbone, Frame
from distmeta.models.mlp import Mlp
from distmeta.models.network import Network

from ....adapting import adapt, predict, walk


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone(MlpConfig(hidden=(5, 4)), (3,), {HEAD: 2}, torch.float64)


@pytest.fixture
def support() -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch(torch.randn(6, 3, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0]))


def make_learner(backbone: Backbone, *phases: Phase, **settings: object) -> GradientLearner:
    config = GradientConfig.model_validate({"phases": phases, **settings})
    return GradientLearner(config, backbone, "cross_entropy")


def test_only_the_groups_of_the_phases_move(backbone: Backbone, support: Batch) -> None:
    learner = make_learner(backbone, Phase(groups=("block2",)), Phase(groups=("head",), steps=2))
    meta = backbone.init(0)
    states = walk(learner, meta, support)
    fast = states[-1]
    assert len(states) == 1 + 3
    assert set(fast.moved) == {"block2.weight", "block2.bias", "head.weight", "head.bias"}
    after_first = states[1].moved
    assert torch.equal(after_first["head.weight"], meta["head.weight"])
    assert not torch.equal(after_first["block2.weight"], meta["block2.weight"])
    assert torch.equal(fast.moved["block2.weight"], after_first["block2.weight"])
    displacement = learner.displacement(meta, fast)
    assert {name for name, tensor in displacement.items() if tensor.any()} == set(fast.moved)


def test_evaluation_may_take_other_steps_or_another_learner() -> None:
    trained, other = GradientConfig(phases=(Phase(lr=0.1), Phase(steps=2))), GradientConfig(phases=(Phase(steps=5),))
    assert AlgorithmConfig(learner=trained).evaluated_learner() == trained
    longer = AlgorithmConfig(learner=trained, evaluate=EvaluateConfig(steps=7))
    assert longer.learner == trained
    assert longer.evaluated_learner() == GradientConfig(phases=(Phase(lr=0.1), Phase(steps=7)))
    assert AlgorithmConfig(learner=trained, evaluate=EvaluateConfig(learner=other)).evaluated_learner() == other


def test_without_steps_it_predicts_with_the_meta_parameters(backbone: Backbone, support: Batch) -> None:
    learner, meta = make_learner(backbone, Phase(steps=0)), backbone.init(0)
    fast = adapt(learner, meta, support)
    expected = learner.forward(Network(backbone), meta, support.inputs)
    assert torch.equal(predict(learner, meta, fast, support, support.inputs), expected)


def test_learned_rates_start_from_the_rates_of_their_phases(backbone: Backbone) -> None:
    learner = make_learner(backbone, Phase(groups=("body",), lr=0.2), Phase(lr=0.3), learned_lr=True)
    params, groups = learner.init(0), backbone.groups()
    rates = {name: tensor for name, tensor in params.items() if name.startswith(RATE_PREFIX)}
    first, second = {RATE_PREFIX + name: name for name in groups["body"]}, f"{RATE_PREFIX}1."
    names = first | {second + name: name for name in groups["all"]}
    assert set(rates) == set(names), "each phase has rates of its own"
    for rate, tensor in rates.items():
        assert tensor.shape == params[names[rate]].shape
        assert bool((tensor == (0.3 if rate.startswith(second) else 0.2)).all())


def test_learned_rates_may_be_one_for_a_tensor_or_for_a_tensor_and_step(backbone: Backbone, support: Batch) -> None:
    assert GradientConfig.model_validate({"learned_lr": True}) == GradientConfig(learned_lr="entry")
    phases = (Phase(groups=("body",), lr=0.2, steps=3), Phase(lr=0.3))
    for granularity, shapes in (("layer", ((), ())), ("layer_step", ((3,), (1,)))):
        learner = make_learner(backbone, *phases, learned_lr=granularity)
        meta = learner.init(0)
        assert meta["inner_lr.block1.weight"].shape == shapes[0]
        assert meta["inner_lr.1.head.bias"].shape == shapes[1]
        expected = adapt(make_learner(backbone, *phases), backbone.init(0), support).moved
        torch.testing.assert_close(adapt(learner, meta, support).moved, expected)


def test_steps_beyond_those_of_the_rates_take_the_last_one(backbone: Backbone, support: Batch) -> None:
    two = make_learner(backbone, Phase(steps=2), learned_lr="layer_step")
    meta = {name: tensor * 2 if name.startswith(RATE_PREFIX) else tensor for name, tensor in two.init(0).items()}
    four = make_learner(backbone, Phase(steps=4), learned_lr="layer_step")
    longer = {name: torch.full((4,), 0.8) if name.startswith(RATE_PREFIX) else meta[name] for name in meta}
    expected = adapt(four, {name: tensor.double() for name, tensor in longer.items()}, support).moved
    torch.testing.assert_close(adapt(four, meta, support).moved, expected)


def test_groups_of_zeros_start_from_zeros_whatever_moves_them(backbone: Backbone, support: Batch) -> None:
    learner = make_learner(backbone, Phase(groups=("head",)), zeros=("block2",))
    assert not learner.init(0)["block2.weight"].any()
    start, *_ = walk(learner, backbone.init(0), support)
    assert {name for name, tensor in start.moved.items() if not tensor.any()} >= {"block2.weight", "block2.bias"}
    assert learner.fresh == {"block2.weight", "block2.bias"}
    displacement = learner.displacement(backbone.init(0), start)
    assert not any(tensor.any() for tensor in displacement.values())


def test_rates_of_groups_replace_that_of_the_phase(backbone: Backbone, support: Batch) -> None:
    rates = {"body": 0.05, "block2": 0.01}
    learner = make_learner(backbone, Phase(lr=0.4, rates=rates), learned_lr=True)
    values = {name: float(tensor.max()) for name, tensor in learner.init(0).items() if name.startswith(RATE_PREFIX)}
    by_layer = {"block1": 0.05, "block2": 0.01, "head": 0.4}
    assert values == {
        f"{RATE_PREFIX}{layer}.{part}": rate for layer, rate in by_layer.items() for part in ("weight", "bias")
    }
    meta = backbone.init(0)
    once = {
        name: meta[name] - tensor
        for name, tensor in adapt(make_learner(backbone, Phase(lr=1.0)), meta, support).moved.items()
    }
    fast = adapt(make_learner(backbone, Phase(lr=0.4, rates=rates)), meta, support).moved
    for name, tensor in fast.items():
        torch.testing.assert_close(
            meta[name] - tensor, by_layer[name.split(".")[0]] * once[name], rtol=1e-9, atol=1e-14
        )
    # Rates alone move nothing.
    assert set(adapt(make_learner(backbone, Phase(groups=("head",), rates=rates)), meta, support).moved) == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("head", ["meta", "fresh"])
def test_a_later_phase_pulls_towards_its_own_start(backbone: Backbone, support: Batch, head: str) -> None:
    meta, lr, weight = backbone.init(0), 0.1, 0.7
    learner = make_learner(backbone, Phase(lr=0.3, steps=2), Phase(lr=lr, steps=3, l2sp=weight), head=head)
    plain = make_learner(backbone, Phase(lr=0.3, steps=2), Phase(lr=lr, steps=1), head=head)
    states = [state.moved for state in walk(learner, meta, support)]
    start, first_step = states[2], [state.moved for state in walk(plain, meta, support)][3]
    if head == "fresh":
        assert not states[0]["head.weight"].any()
    for name, tensor in first_step.items():
        torch.testing.assert_close(states[3][name], tensor)  # the pull is zero where it starts
    for k in (3, 4):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in states[k].items()}
        loss = F.cross_entropy(Network(backbone)(leaves, support.inputs), support.targets)
        loss = loss + 0.5 * weight * sum((leaves[name] - start[name]).square().sum() for name in leaves)
        for (name, leaf), slope in zip(leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            torch.testing.assert_close(states[k + 1][name], leaf.detach() - lr * slope, rtol=1e-10, atol=1e-13)


def test_a_pull_in_the_first_phase_is_towards_the_meta_parameters(backbone: Backbone, support: Batch) -> None:
    meta = backbone.init(0)
    strong = adapt(make_learner(backbone, Phase(lr=0.01, steps=50, l2sp=90.0)), meta, support).moved
    free = adapt(make_learner(backbone, Phase(lr=0.01, steps=50)), meta, support).moved
    distances = [sum(float((moved[n] - meta[n]).square().sum()) for n in moved) ** 0.5 for moved in (strong, free)]
    assert distances[0] < 0.1 * distances[1]


def test_integer_inputs_have_scalars_in_the_type_of_the_parameters() -> None:
    """Token indices would round Adam's bias corrections to zero."""

    class Embedded(Mlp):
        def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
            return super().features(params, inputs.to(torch.float32), frame)

    backbone = Embedded(MlpConfig(hidden=(5,)), (3,), {HEAD: 2}, torch.float32)
    tokens = torch.randint(0, 4, (6, 3), generator=torch.Generator().manual_seed(0))
    support, exact = (Batch(values, torch.tensor([0, 1, 0, 1, 1, 0])) for values in (tokens, tokens.float()))
    learner, meta = make_learner(backbone, Phase(lr=0.01, steps=3, optimizer="adam")), backbone.init(0)
    fast, expected = adapt(learner, meta, support).moved, adapt(learner, meta, exact).moved
    for name, tensor in fast.items():
        assert tensor.dtype == torch.float32
        assert bool(tensor.isfinite().all())
        assert torch.equal(tensor, expected[name])
        assert not torch.equal(tensor, meta[name])


def test_an_objective_that_changes_its_inputs_gets_their_features(
    backbone: Backbone, support: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head-only phase computes features once, but not those of inputs that the objective makes itself."""

    def mirrored(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.targets is not None
        return F.cross_entropy(forward(-batch.inputs), batch.targets), {}

    monkeypatch.setitem(OBJECTIVES, "mirrored", mirrored)
    meta, phase = backbone.init(0), Phase(groups=("head",), lr=0.2, steps=3)
    plain = adapt(make_learner(backbone, phase), meta, Batch(-support.inputs, support.targets)).moved
    fast = adapt(make_learner(backbone, phase.model_copy(update={"objective": "mirrored"})), meta, support).moved
    unchanged = adapt(make_learner(backbone, phase), meta, support).moved
    for name, tensor in plain.items():
        torch.testing.assert_close(fast[name], tensor, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(fast[name], unchanged[name])


def test_mini_batches_cycle_through_the_support_set(backbone: Backbone, support: Batch) -> None:
    learner, meta = make_learner(backbone, Phase(batch=4, steps=3)), backbone.init(0)
    net, fast = Network(backbone), adapt(learner, meta, support)
    whole = make_learner(backbone, Phase())
    manual = learner.start(net, meta, Episode({SUPPORT: support}))
    for rows in ([0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]):
        batch = support.map(lambda tensor, rows=rows: tensor[rows])
        manual = whole.advance(net, meta, manual, batch, 0, torch.zeros(0))
    assert all(torch.equal(fast.moved[name], manual.moved[name]) for name in fast.moved)


@pytest.mark.parametrize(
    ("phase", "where", "message"),
    [
        (Phase(groups=("heads",)), "algorithm.learner.phases.0.groups", "unknown parameter group 'heads'"),
        (Phase(objective="mean"), "algorithm.learner.phases.0.objective", "unknown objective 'mean'"),
        (Phase(head="source"), "algorithm.learner.phases.0.head", "unknown parameter group 'source'"),
        (Phase(rates={"heads": 1.0}), "algorithm.learner.phases.0.rates", "unknown parameter group 'heads'"),
    ],
)
def test_unknown_groups_heads_and_objectives_are_refused(
    backbone: Backbone, phase: Phase, where: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_learner(backbone, phase)
    assert where in str(caught.value)
