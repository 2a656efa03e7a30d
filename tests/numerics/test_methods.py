"""FOMAML, ANIL, Meta-SGD, Reptile, ProtoNet and joint pre-training, compared with independent implementations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from distmeta.config import Phase
from distmeta.core.types import QUERY, SUPPORT, Episode, Params
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.methods.objectives import cross_entropy
from distmeta.methods.terms import OuterTerm
from distmeta.models.base import Backbone

from ..adapting import adapt, predict
from . import networks
from .problems import (
    DISPLACEMENT,
    EXACT,
    FIRST_ORDER,
    WAY,
    classification,
    conv4,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    relative_error,
    single_tasks,
    update,
    worst_relative_error,
)

TOLERANCE = 1e-11
Network = tuple[Backbone, Callable[[], nn.Module], Params, Episode]


@pytest.fixture(params=["mlp", "conv4"])
def network(request: pytest.FixtureRequest) -> Network:
    """A network, its implementation as a `torch.nn` module, meta-parameters and tasks."""
    if request.param == "mlp":
        backbone = mlp()
        return backbone, lambda: networks.Mlp((6, 8, 7, WAY)), perturbed(backbone.init(0)), classification(6)
    backbone, episodes = conv4(), classification(1, 16, 16)
    return backbone, lambda: networks.Conv4(4, 4, WAY, pool=False), perturbed(backbone.init(0)), episodes


class Body(nn.Module):
    """The body of a network as a module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.body(x)


def support_loss(net: nn.Module, task: Episode, rows: list[int] | slice = slice(None)) -> Tensor:
    return F.cross_entropy(net(task.support.inputs[rows]), task.support.targets[rows])


def body_of(net: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(layer for name, layer in net.named_children() if name != "head")


def query_loss(net: nn.Module, task: Episode) -> Tensor:
    return F.cross_entropy(net(task.query.inputs), task.query.targets)


@pytest.mark.parametrize("groups", ["all", "head", "body"])
@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_the_gradient_at_the_adapted_parameters(network: Network, steps: int, groups: str) -> None:
    backbone, make, meta, episodes = network
    expected = []
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        moving = {"all": net, "head": net.head, "body": body_of(net)}[groups].parameters()
        optimizer = torch.optim.SGD(moving, lr=0.3)
        for _ in range(steps):
            optimizer.zero_grad()
            support_loss(net, task).backward()
            optimizer.step()
        expected.append(networks.plain_gradient(net, query_loss(net, task)))
    grads = mean_gradient(gradient(backbone, Phase(groups=(groups,), lr=0.3, steps=steps)), FIRST_ORDER, meta, episodes)
    assert worst_relative_error(grads, mean_over_tasks(expected)) < TOLERANCE


def test_anil_is_an_inner_loop_over_the_head(network: Network) -> None:
    backbone, make, meta, episodes = network
    expected = []
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        weight, bias = net.head.weight, net.head.bias
        for _ in range(4):
            loss = F.cross_entropy(F.linear(net.body(task.support.inputs), weight, bias), task.support.targets)
            by_weight, by_bias = torch.autograd.grad(loss, (weight, bias), create_graph=True)
            weight, bias = weight - 0.2 * by_weight, bias - 0.2 * by_bias
        query = task.query
        loss = F.cross_entropy(F.linear(net.body(query.inputs), weight, bias), query.targets)
        expected.append(networks.plain_gradient(net, loss))
    anil = gradient(backbone, Phase(groups=("head",), lr=0.2, steps=4))
    grads = mean_gradient(anil, EXACT, meta, episodes)
    assert worst_relative_error(grads, mean_over_tasks(expected)) < TOLERANCE


@pytest.mark.parametrize("estimator", [EXACT, FIRST_ORDER, DISPLACEMENT], ids=["exact", "first order", "displacement"])
def test_computing_features_once_does_not_change_the_result(network: Network, estimator: Estimator) -> None:
    backbone, _, meta, episodes = network
    head = Phase(groups=("head",), lr=0.2, steps=3)
    # A step too small to change a bit of the body makes every later step recompute the features.
    idle = Phase(groups=("body",), lr=1e-300)
    once = mean_gradient(gradient(backbone, head), estimator, meta, episodes)
    recomputed = mean_gradient(gradient(backbone, idle, head), estimator, meta, episodes)
    assert relative_error(once, recomputed) < 1e-12


@pytest.mark.parametrize("steps", [1, 3])
def test_meta_sgd_is_the_manual_loop_with_gradients_of_the_rates(network: Network, steps: int) -> None:
    backbone, make, _, episodes = network
    learner = gradient(backbone, Phase(lr=0.3, steps=steps), learned_lr=True)
    meta = perturbed(learner.init(0), size=0.05)
    names, net = list(backbone.init(0)), make().double()
    expected = []
    for task in single_tasks(episodes):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        fast = {name: leaves[name] for name in names}
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(net, fast, task.support.inputs), task.support.targets)
            inner = torch.autograd.grad(loss, [fast[name] for name in names], create_graph=True)
            fast = {n: fast[n] - leaves[f"inner_lr.{n}"] * g for n, g in zip(names, inner, strict=True)}
        query = task.query
        loss = F.cross_entropy(functional_call(net, fast, query.inputs), query.targets)
        expected.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    assert worst_relative_error(mean_gradient(learner, EXACT, meta, episodes), mean_over_tasks(expected)) < TOLERANCE


@pytest.mark.parametrize("batch", [None, 4, 100])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_reptile_is_the_displacement_by_torch_optimizers(network: Network, optimizer: str, batch: int | None) -> None:
    backbone, make, meta, episodes = network
    expected = []
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        inner: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        if optimizer == "adam":
            inner = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.999))
        available = len(task.support.inputs)
        size = available if batch is None else min(batch, available)
        for k in range(5):
            rows = [(k * size + i) % available for i in range(size)]
            inner.zero_grad()
            support_loss(net, task, rows).backward()
            inner.step()
        after = networks.values(net)
        expected.append({name: meta[name] - after[name] for name in meta})
    phase = Phase(lr=0.01, steps=5, batch=batch, optimizer=optimizer, beta1=0.0)
    signal = mean_gradient(gradient(backbone, phase), DISPLACEMENT, meta, episodes)
    if optimizer == "adam":
        # The gradient of a conv bias before batch norm is zero except for rounding, which Adam normalises to size 1.
        kept = [name for name in meta if "conv.bias" not in name]
        mean = mean_over_tasks(expected)
        assert relative_error({name: signal[name] for name in kept}, {name: mean[name] for name in kept}) < 1e-6
    else:
        assert worst_relative_error(signal, mean_over_tasks(expected)) < TOLERANCE


def test_protonet_classifies_by_distance_to_class_means(network: Network) -> None:
    backbone, make, full, episodes = network
    learner = PrototypeLearner(backbone, WAY)
    meta = {name: tensor for name, tensor in full.items() if not name.startswith("head")}
    assert set(meta) == set(learner.init(0))
    expected = []
    for task in single_tasks(episodes):
        net, query = networks.with_values(make(), full), task.query
        features = net.body(task.support.inputs)
        means = torch.stack([features[task.support.targets == label].mean(0) for label in range(WAY)])
        logits = -torch.cdist(net.body(query.inputs), means, compute_mode="donot_use_mm_for_euclid_dist").square()
        grads = networks.plain_gradient(net, F.cross_entropy(logits, query.targets))
        expected.append({name: grads[name] for name in meta})
        predicted = predict(learner, meta, adapt(learner, meta, task.support), task.support, query.inputs)
        torch.testing.assert_close(predicted.softmax(-1), logits.softmax(-1), rtol=1e-9, atol=1e-12)
    for estimator in (EXACT, FIRST_ORDER):
        grads = mean_gradient(learner, estimator, meta, episodes)
        assert worst_relative_error(grads, mean_over_tasks(expected)) < TOLERANCE


@pytest.mark.parametrize("groups", ["head", "all"])
@pytest.mark.parametrize("order", [1, 2])
def test_a_head_of_prototypes_is_adapted_and_differentiated_through(groups: str, order: int, network: Network) -> None:
    """Proto-MAML against its definition: the head is a function of the meta-parameters, whatever the order."""
    backbone, make, full, episodes = network
    meta = {name: tensor for name, tensor in full.items() if not name.startswith("head")}
    learner = gradient(backbone, Phase(groups=(groups,), lr=0.2, steps=2), head="prototypes", scale=0.3)
    expected = []
    for task in single_tasks(episodes):
        net, support, query = make(), task.support, task.query
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        features = functional_call(Body(net), {f"net.{name}": leaf for name, leaf in leaves.items()}, support.inputs)
        means = torch.stack([features[support.targets == label].mean(0) for label in range(WAY)])
        fast = leaves | {"head.weight": 0.6 * means, "head.bias": -0.3 * means.square().sum(1)}
        moving = [name for name in fast if groups == "all" or name.startswith("head")]
        for _ in range(2):
            fast = {name: tensor.clone() for name, tensor in fast.items()}  # the head is a parameter of its own
            loss = F.cross_entropy(functional_call(net, fast, (support.inputs,)), support.targets)
            inner = torch.autograd.grad(
                loss, [fast[name] for name in moving], create_graph=order == 2, retain_graph=True
            )
            fast = fast | {name: fast[name] - 0.2 * g for name, g in zip(moving, inner, strict=True)}
        outputs = functional_call(net, fast, (query.inputs,))
        loss = F.cross_entropy(outputs, query.targets)
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        expected.append(dict(zip(leaves, grads, strict=True)))
        predicted = predict(learner, meta, adapt(learner, meta, support), support, query.inputs)
        torch.testing.assert_close(predicted, outputs, rtol=1e-10, atol=1e-11)
    signal = mean_gradient(learner, EXACT if order == 2 else FIRST_ORDER, meta, episodes)
    assert worst_relative_error(signal, mean_over_tasks(expected)) < TOLERANCE


def test_joint_training_is_the_plain_gradient_and_ignores_the_support_set(network: Network) -> None:
    backbone, make, meta, episodes = network
    invalid = episodes.support.map(lambda tensor: tensor.new_full(tensor.shape, -1))
    joint = Episode({SUPPORT: invalid, QUERY: episodes.query})
    terms = (OuterTerm(QUERY, cross_entropy, at="meta"),)
    expected = []
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        expected.append(networks.plain_gradient(net, query_loss(net, task)))
    for estimator in (EXACT, FIRST_ORDER):
        grads = mean_gradient(gradient(backbone, Phase(), head="fresh"), estimator, meta, joint, terms=terms)
        assert worst_relative_error(grads, mean_over_tasks(expected)) < TOLERANCE


@pytest.mark.parametrize("groups", ["head", "all"])
def test_a_fresh_head_starts_from_zeros_and_gives_the_meta_head_no_gradient(groups: str) -> None:
    wide = mlp(outputs=11)  # pre-trained on eleven classes
    meta, episodes = perturbed(wide.init(0)), classification(6)
    learner = gradient(mlp(), Phase(groups=(groups,), lr=0.3, steps=3), head="fresh")
    expected = []
    for task in single_tasks(episodes):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        net, zeros = networks.Mlp((6, 8, 7, WAY)), {"head.weight": torch.zeros(WAY, 7), "head.bias": torch.zeros(WAY)}
        fast = leaves | {name: tensor.double().requires_grad_() for name, tensor in zeros.items()}
        moving = [name for name in fast if groups == "all" or name.startswith("head")]
        for _ in range(3):
            loss = F.cross_entropy(functional_call(net, fast, task.support.inputs), task.support.targets)
            inner = torch.autograd.grad(loss, [fast[name] for name in moving], create_graph=True)
            fast = fast | {name: fast[name] - 0.3 * g for name, g in zip(moving, inner, strict=True)}
        query = task.query
        outputs = functional_call(net, fast, query.inputs)
        grads = torch.autograd.grad(
            F.cross_entropy(outputs, query.targets), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        expected.append(dict(zip(leaves, grads, strict=True)))
        predicted = predict(learner, meta, adapt(learner, meta, task.support), task.support, query.inputs)
        torch.testing.assert_close(predicted, outputs, rtol=1e-11, atol=1e-12)
    signal = mean_gradient(learner, EXACT, meta, episodes)
    assert worst_relative_error(signal, mean_over_tasks(expected)) < TOLERANCE
    assert set(meta) - set(signal) == {"head.weight", "head.bias"}


def test_phases_run_in_order_with_new_moments() -> None:
    """Linear probing, then Adam twice: the same as three torch optimizers, one after another."""
    backbone, episodes = mlp(), classification(6)
    meta = perturbed(backbone.init(0))
    tuning = Phase(lr=0.01, steps=3, optimizer="adam", batch=4)
    learner = gradient(backbone, Phase(groups=("head",), lr=0.3, steps=2), tuning, tuning)
    for task in single_tasks(episodes):
        net = networks.with_values(networks.Mlp((6, 8, 7, WAY)), meta)
        probing = torch.optim.SGD(net.head.parameters(), lr=0.3)
        first, second = (torch.optim.Adam(net.parameters(), lr=0.01) for _ in range(2))
        for k, optimizer in enumerate((probing, probing, *3 * [first], *3 * [second])):
            rows = slice(None) if k < 2 else [(4 * ((k - 2) % 3) + i) % 6 for i in range(4)]
            net.zero_grad()
            support_loss(net, task, rows).backward()
            optimizer.step()
        fast = adapt(learner, meta, task.support).moved
        assert relative_error(fast, networks.values(net)) < 1e-9


def test_metrics_are_sums_over_tasks_after_adaptation(network: Network) -> None:
    backbone, make, meta, episodes = network
    loss = hits = 0.0
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        support_loss(net, task).backward()
        optimizer.step()
        query = task.query
        loss += query_loss(net, task).item()
        hits += (net(query.inputs).argmax(-1) == query.targets).double().mean().item()
    for estimator in (EXACT, FIRST_ORDER, DISPLACEMENT):
        total = update(gradient(backbone, Phase(lr=0.3)), estimator, meta, episodes)
        assert total.weight == episodes.num_tasks
        assert total.metrics == pytest.approx({"loss": loss, "accuracy": hits}, rel=1e-11)
