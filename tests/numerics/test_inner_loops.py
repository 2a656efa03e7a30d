"""BOIL, MAML++ and CAVIA, compared with loops written by hand, with central differences, and with MAML's two orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from distmeta.config import BackpropConfig, Conv4Config, EngineConfig, MlpConfig, Phase
from distmeta.core.tensors import digest
from distmeta.core.types import QUERY, Batch, Episode, Params
from distmeta.engine.engine import Engine
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.estimators.base import Moment
from distmeta.methods.learners.base import Learner
from distmeta.methods.objectives import cross_entropy
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone
from distmeta.models.network import Network

from ..adapting import adapt, query_term
from . import networks
from .problems import (
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    WAY,
    classification,
    conv4,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    regression,
    relative_error,
    single_tasks,
    worst_relative_error,
)

TOLERANCE = 1e-11
STEPS = 3
EACH = (OuterTerm(QUERY, cross_entropy, weight=0.7, at="each"),)
ANNEALED = Backprop(BackpropConfig(each_until=8))
ENGINES = [
    pytest.param(LOOP, id="loop"),
    pytest.param(VMAP, id="vmap"),
    pytest.param(EngineConfig(strategy="vmap", memory="flat"), id="flat"),
    pytest.param(EngineConfig(strategy="compiled"), id="compiled", marks=pytest.mark.slow),
    pytest.param(EngineConfig(strategy="compiled_vmap", memory="flat"), id="compiled flat", marks=pytest.mark.slow),
]
Loss = Callable[[Params, Batch], Tensor]
Rates = Callable[[str, int], Tensor | float]


def loss_of(params: Params, batch: Batch) -> Tensor:
    net = networks.Mlp((6, 8, 7, WAY))
    return F.cross_entropy(
        functional_call(net, {name: params[name] for name in net.state_dict()}, batch.inputs), batch.targets
    )


def by_hand(meta: Params, task: Episode, moving: list[str], rates: Rates, weights: list[float], loss: Loss) -> Tensor:
    """The outer loss of one task: steps on the parameters `moving`, each followed by a weighted score."""
    fast, total = dict(meta), torch.zeros((), dtype=torch.float64)
    for k, weight in enumerate(weights):
        slopes = torch.autograd.grad(loss(fast, task.support), [fast[name] for name in moving], create_graph=True)
        fast = fast | {name: fast[name] - rates(name, k) * slope for name, slope in zip(moving, slopes, strict=True)}
        total = total + weight * loss(fast, task.query)
    return total


def gradient_by_hand(meta: Params, episodes: Episode, outer: Callable[[Params, Episode], Tensor]) -> Params:
    """The mean over tasks of the gradient of the outer loss."""
    gradients = []
    for task in single_tasks(episodes):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        grads = torch.autograd.grad(
            outer(leaves, task), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        gradients.append(dict(zip(leaves, grads, strict=True)))
    return mean_over_tasks(gradients)


def estimate(
    learner: Learner,
    estimator: Backprop,
    meta: Params,
    episodes: Episode,
    version: int = 0,
    engine: EngineConfig = VMAP,
    terms: tuple[OuterTerm, ...] = EACH,
) -> Params:
    """The engine's mean gradient at an outer step."""
    total, _ = Engine(learner, estimator, terms, engine).update(meta, episodes, Moment(version))
    return {name: grad / total.weight for name, grad in total.grad.items()}


def annealed(version: int, until: int, steps: int = STEPS) -> list[float]:
    """MAML++'s weights of the inner steps, times the weight of the term."""
    weights = [max(0.0, 1 / steps - version * (1 / steps / until)) for _ in range(steps - 1)]
    return [0.7 * weight for weight in (*weights, 1 - sum(weights))]


def rates_of(granularity: str, meta: Params) -> Rates:
    return lambda name, k: meta[f"inner_lr.{name}"][k] if granularity == "layer_step" else meta[f"inner_lr.{name}"]


def test_boil_moves_everything_but_the_head() -> None:
    backbone, episodes = mlp(), classification(6)
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(groups=("body",), lr=0.4, steps=STEPS))
    body = [name for name in meta if not name.startswith("head")]
    moved = adapt(learner, meta, single_tasks(episodes)[0].support).moved
    assert set(moved) == set(body)
    assert all(not torch.equal(moved[name], meta[name]) for name in body)
    weights = [0.0] * (STEPS - 1) + [1.0]
    expected = gradient_by_hand(
        meta, episodes, lambda meta, task: by_hand(meta, task, body, lambda *_: 0.4, weights, loss_of)
    )
    assert expected["head.weight"].any()
    assert worst_relative_error(mean_gradient(learner, EXACT, meta, episodes), expected) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [0, 3, 100])
@pytest.mark.usefixtures("interpreted")
def test_rates_by_step_and_the_annealed_loss_are_the_loop_by_hand(version: int, engine: EngineConfig) -> None:
    learner, episodes = gradient(mlp(), Phase(lr=0.3, steps=STEPS), learned_lr="layer_step"), classification(6)
    meta, names = perturbed(learner.init(0), size=0.05), list(mlp().init(0))
    weights = annealed(version, 8)
    assert sum(weights) == pytest.approx(0.7)

    def outer(meta: Params, task: Episode) -> Tensor:
        return by_hand(meta, task, names, rates_of("layer_step", meta), weights, loss_of)

    expected = gradient_by_hand(meta, episodes, outer)
    assert expected["inner_lr.block1.weight"].shape == (STEPS,)
    actual = estimate(learner, ANNEALED, meta, episodes, version, engine)
    assert worst_relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("granularity", ["entry", "layer", "layer_step"])
def test_gradients_of_rates_are_central_differences(granularity: str) -> None:
    learner, episodes = gradient(mlp(), Phase(lr=0.3, steps=STEPS), learned_lr=granularity), classification(6)
    meta, names = perturbed(learner.init(0), size=0.05), list(mlp().init(0))
    actual = estimate(learner, ANNEALED, meta, episodes, 3)

    def outer(meta: Params) -> float:
        meta = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        losses = [
            by_hand(meta, task, names, rates_of(granularity, meta), annealed(3, 8), loss_of)
            for task in single_tasks(episodes)
        ]
        return float(torch.stack(losses).mean().detach())

    rng = torch.Generator().manual_seed(1)
    for prefix in ("inner_lr.", "block", "head"):
        direction = {
            name: torch.randn(tensor.shape, generator=rng, dtype=torch.float64) if name.startswith(prefix) else 0.0
            for name, tensor in meta.items()
        }
        ahead, behind = (
            outer({name: tensor + sign * 1e-5 * direction[name] for name, tensor in meta.items()}) for sign in (1, -1)
        )
        slope = sum(float((actual[name] * direction[name]).sum()) for name in actual)
        assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-7)


@pytest.mark.parametrize("make", [mlp, conv4], ids=["mlp", "conv4"])
def test_equal_rates_by_step_are_plain_maml(make: Callable[[], object]) -> None:
    backbone = mlp() if make is mlp else conv4()
    episodes = classification(6) if make is mlp else classification(1, 16, 16)
    meta = perturbed(backbone.init(0))
    learned = gradient(backbone, Phase(lr=0.3, steps=2, rates={"head": 0.1}), learned_lr="layer_step")
    fixed = gradient(backbone, Phase(lr=0.3, steps=2, rates={"head": 0.1}))
    rates = {name: tensor for name, tensor in learned.init(0).items() if name.startswith("inner_lr.")}
    actual = mean_gradient(learned, EXACT, {**meta, **rates}, episodes)
    expected = mean_gradient(fixed, EXACT, meta, episodes)
    assert relative_error({name: actual[name] for name in expected}, expected) < 1e-13


@pytest.mark.parametrize("engine", [pytest.param(LOOP, id="loop"), pytest.param(VMAP, id="vmap")])
@pytest.mark.parametrize("learned", [False, "layer_step"])
def test_the_order_changes_at_its_step_bit_for_bit(learned: bool | str, engine: EngineConfig) -> None:
    learner, episodes = gradient(mlp(), Phase(lr=0.3, steps=STEPS), learned_lr=learned), classification(6)
    meta, switching = perturbed(learner.init(0), size=0.05), Backprop(BackpropConfig(first_order_until=5))
    first, second = (
        digest(estimate(learner, each, meta, episodes, 0, engine, query_term())) for each in (FIRST_ORDER, EXACT)
    )
    assert first != second
    at = {
        version: digest(estimate(learner, switching, meta, episodes, version, engine, query_term()))
        for version in (0, 4, 5, 6)
    }
    assert at == {0: first, 4: first, 5: second, 6: second}


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
def test_a_compiled_engine_of_two_lanes_changes_its_order_on_the_way() -> None:
    learner, episodes = gradient(mlp(), Phase(lr=0.3, steps=STEPS), learned_lr="layer_step"), classification(6, tasks=4)
    meta, switching = perturbed(learner.init(0), size=0.05), Backprop(BackpropConfig(first_order_until=2, each_until=4))
    engine = Engine(learner, switching, EACH, EngineConfig(strategy="compiled"), 2)
    for version in (0, 1, 2, 4, 1):
        total, _ = engine.update(meta, episodes, Moment(version))
        expected = estimate(learner, switching, meta, episodes, version)
        assert set(total.grad) == set(expected)
        assert relative_error({name: grad / 4 for name, grad in total.grad.items()}, expected) < TOLERANCE
    engine.close()


def joined(params: Params, batch: Batch) -> Tensor:
    """Squared error of an MLP whose inputs are joined with the context."""
    x = torch.cat((batch.inputs, params["context"].expand(len(batch.inputs), -1)), 1)
    for layer in ("block1", "block2"):
        x = torch.relu(F.linear(x, params[f"{layer}.weight"], params[f"{layer}.bias"]))
    return F.mse_loss(F.linear(x, params["head.weight"], params["head.bias"]), batch["targets"])


def modulated(params: Params, batch: Batch) -> Tensor:
    """Cross-entropy of conv4 whose third block is scaled and shifted by the context."""
    x = batch.inputs
    for block in range(1, 5):
        name = f"block{block}"
        x = F.conv2d(x, params[f"{name}.conv.weight"], params[f"{name}.conv.bias"], stride=2, padding=1)
        x = F.batch_norm(x, None, None, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"], training=True)
        if block == 3:
            scale, shift = (params["block3.film.weight"] @ params["context"]).chunk(2)
            x = (1 + scale)[:, None, None] * x + shift[:, None, None]
        x = torch.relu(x)
    return F.cross_entropy(F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"]), batch.targets)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("network", ["mlp", "conv4"])
@pytest.mark.usefixtures("interpreted")
def test_cavia_moves_the_context_alone_from_zeros(network: str, engine: EngineConfig) -> None:
    if network == "mlp":
        config, episodes, loss = MlpConfig(hidden=(8, 7), context_size=3), regression(), joined
        backbone = build_backbone(config, (6,), {"head": 2}, torch.float64)
    else:
        images, episodes, loss = Conv4Config(filters=4, context_size=5), classification(1, 16, 16), modulated
        backbone = build_backbone(images, (1, 16, 16), {"head": WAY}, torch.float64)
    objective = "mse" if network == "mlp" else "cross_entropy"
    phase = Phase(groups=("context",), lr=0.5, steps=2)
    learner = gradient(backbone, phase, objective=objective, zeros=("context",))
    # What the meta-parameters say of the context does not matter.
    meta = perturbed(learner.init(0))
    task = single_tasks(episodes)[0]
    moved = adapt(learner, meta, task.support).moved
    assert set(moved) == {"context"}
    assert moved["context"].all()

    def outer(meta: Params, task: Episode) -> Tensor:
        start = {**meta, "context": torch.zeros_like(meta["context"]).requires_grad_()}
        return by_hand(start, task, ["context"], lambda *_: 0.5, [0.0, 1.0], loss)

    expected = gradient_by_hand(meta, episodes, outer)
    actual = mean_gradient(learner, EXACT, meta, episodes, engine)
    assert "context" not in actual
    assert worst_relative_error(actual, expected) < 1e-10


def test_a_network_with_a_context_of_zeros_is_the_network_without() -> None:
    plain, images = conv4(), torch.randn(5, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    config = Conv4Config(filters=4, context_size=5)
    modulated = build_backbone(config, (1, 16, 16), {"head": WAY}, torch.float64)
    params = modulated.init(0)
    torch.testing.assert_close(Network(modulated)(params, images), Network(plain)(params, images))
