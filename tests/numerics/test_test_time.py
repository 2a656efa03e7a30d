"""TENT, BN-adapt and TTT, compared with plain torch and with the definitions of their papers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmeta.config import AlgorithmConfig, EngineConfig
from distmeta.core.types import DOMAINS, QUERY, ROTATION, UNLABELLED, Batch, Episode, Params
from distmeta.engine.engine import Engine, one_by_one
from distmeta.methods import bn_adapt, dann, deep_coral, tent, ttt
from distmeta.methods.estimators import build_estimator
from distmeta.methods.learners import build_learner
from distmeta.methods.learners.base import Learner
from distmeta.methods.objectives import OBJECTIVES
from distmeta.methods.terms import OuterTerm
from distmeta.models.base import INDUCTIVE, TRANSDUCTIVE
from distmeta.models.module import ModuleBackbone
from distmeta.program.streams import score_stream
from distmeta.tasks.turned import domains_of, turned

CLASSES, BATCH, BATCHES, LR = 3, 6, 4, 0.02
SHAPE = (2, 6, 6)


def module(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, num_outputs),
    )


def backbone(**heads: int) -> ModuleBackbone:
    return ModuleBackbone(module, SHAPE, {"head": CLASSES, **heads}, torch.float64, head="7", limits={})


def trained(network: ModuleBackbone) -> Params:
    """Parameters and running statistics that are not those of a new network."""
    rng = torch.Generator().manual_seed(1)
    params = network.init(0)
    for name, tensor in params.items():
        params[name] = tensor + 0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
    means = {
        name: torch.randn(each.shape, generator=rng, dtype=torch.float64) for name, each in network.buffers().items()
    }
    return {**params, **{name: each.abs() + 0.2 if "var" in name else each for name, each in means.items()}}


def as_module(params: Mapping[str, Tensor]) -> nn.Sequential:
    """A module of torch's with these parameters and running statistics."""
    made = module(SHAPE, CLASSES).double()
    made.load_state_dict({name: value for name, value in params.items() if "rotation" not in name}, strict=False)
    return made  # type: ignore[return-value]


def images(count: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(count, *SHAPE, generator=rng, dtype=torch.float64) + 0.4


def episode(x: Tensor) -> Episode:
    """One task: images without labels, the same as queries, and turned."""
    labels = torch.arange(len(x)).remainder(CLASSES)
    roles = {UNLABELLED: Batch(x), QUERY: Batch(x, labels), ROTATION: turned(x)}
    return Episode({role: batch.map(lambda tensor: tensor[None]) for role, batch in roles.items()})


def learner_of(config: AlgorithmConfig, network: ModuleBackbone, protocol: str) -> Learner:
    return build_learner(config.evaluated_learner(), network.under(protocol), "cross_entropy")


class ReferenceTent:
    """TENT from the paper's algorithm: batch statistics, Adam or SGD on scales and shifts, entropy of the batch."""

    def __init__(self, params: Params, optimizer: type[torch.optim.Optimizer]) -> None:
        self.net = as_module(params).train().requires_grad_(False)
        moving = []
        for layer in self.net:
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
                moving += [layer.weight.requires_grad_(), layer.bias.requires_grad_()]
        self.optimizer = optimizer(moving, lr=LR)  # type: ignore[call-arg]

    def __call__(self, x: Tensor) -> Tensor:
        """Predict a batch, then take a step on it."""
        outputs = self.net(x)
        p = outputs.softmax(1)
        self.optimizer.zero_grad()
        (-(p * p.log()).sum(1).mean()).backward()
        self.optimizer.step()
        return outputs.detach()


@pytest.mark.parametrize(("name", "optimizer"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_tent_is_the_papers_rule_step_by_step(name: Any, optimizer: type[torch.optim.Optimizer]) -> None:
    network, x = backbone(), images(BATCH * BATCHES)
    meta = trained(network)
    learner = learner_of(tent(LR, BATCHES, name, batch=BATCH), network, TRANSDUCTIVE)
    ops, task, reference = one_by_one(learner), episode(x), ReferenceTent(meta, optimizer)
    norms = set(network.groups()["norm"])
    assert norms == {f"{layer}.{part}" for layer in (1, 4) for part in ("weight", "bias")}
    for visit in ops.walk(meta, task, marks=(0,)):
        rows = x[visit.k * BATCH : (visit.k + 1) * BATCH]
        state = dict(reference.net.named_parameters())
        assert set(visit.state.fast.moved) == norms
        for moved, value in visit.state.fast.moved.items():
            torch.testing.assert_close(value[0], state[moved].detach(), rtol=1e-7, atol=1e-9)
        if visit.k < BATCHES:
            outputs = ops.predict(meta, visit.state, task, rows[None], head="head")[0]
            torch.testing.assert_close(outputs, reference(rows), rtol=1e-7, atol=1e-8)
    assert all(not torch.equal(visit.state.fast.moved[name][0], meta[name]) for name in norms)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_stream_is_scored_batch_by_batch(order: Any) -> None:
    network, x = backbone(), images(BATCH * BATCHES)
    meta, config = trained(network), tent(LR, BATCHES, "adam", BATCH, order)
    assert config.evaluate.stream == order
    terms = (OuterTerm(QUERY, OBJECTIVES["cross_entropy"]),)
    ops = one_by_one(learner_of(config, network, TRANSDUCTIVE), terms)
    reference, labels, task = ReferenceTent(meta, torch.optim.Adam), torch.arange(BATCH).remainder(CLASSES), episode(x)
    losses, unadapted = [], []
    for rows in x.split(BATCH):
        unadapted.append(nn.functional.cross_entropy(ReferenceTent(meta, torch.optim.SGD)(rows), labels))
        outputs = reference(rows)
        outputs = outputs if order == "before" else reference.net(rows).detach()
        losses.append(nn.functional.cross_entropy(outputs, labels))
    scores = score_stream(ops, meta, task, order)["loss"][0]
    torch.testing.assert_close(scores, torch.stack([torch.stack(unadapted).mean(), torch.stack(losses).mean()]))


def test_bn_adapt_has_the_statistics_of_a_full_forward() -> None:
    network, x = backbone(), images(11)
    meta, task = trained(network), episode(x)
    ops = one_by_one(learner_of(bn_adapt(), network, INDUCTIVE))
    state = ops.adapt(meta, task)
    forward = as_module(meta)
    for layer in forward:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        expected = forward.train()(x)
    outputs = ops.predict(meta, state, task, x[None], head="head")[0]
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    for name, value in state.buffers.items():
        count = 11 * (36 if name.startswith("1.") else 4)
        correction = (count - 1) / count if "var" in name else 1.0  # torch keeps the variance without its bias
        torch.testing.assert_close(value[0], dict(forward.named_buffers())[name] * correction)
    # A prediction depends on its own query alone: the statistics stay with the task.
    alone = ops.predict(meta, state, task, x[None, :1], head="head")[0]
    torch.testing.assert_close(alone, expected[:1], rtol=1e-12, atol=1e-12)


def test_bn_adapt_mixes_statistics_layer_by_layer() -> None:
    network, x, share = backbone(), images(9), 0.3
    meta = trained(network)
    ops = one_by_one(learner_of(bn_adapt(share), network, INDUCTIVE))
    state = ops.adapt(meta, episode(x))
    h, plain = x, as_module(meta).eval()
    with torch.no_grad():
        for layer in plain:
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_mean = (1 - share) * layer.running_mean + share * mean
                layer.running_var = (1 - share) * layer.running_var + share * variance
            h = layer(h)
    torch.testing.assert_close(ops.predict(meta, state, episode(x), x[None], head="head")[0], h)
    source = one_by_one(learner_of(bn_adapt(0.0), network, INDUCTIVE))
    expected = as_module(meta).eval()(x).detach()
    same = source.predict(meta, source.adapt(meta, episode(x)), episode(x), x[None], head="head")[0]
    torch.testing.assert_close(same, expected)


def joint_loss(net: nn.Sequential, rotation: nn.Linear, task: Episode, weight: float) -> Tensor:
    """The classification loss plus that of rotations, through one body."""
    query, turns = task[QUERY], task[ROTATION]
    assert query.targets is not None and turns.targets is not None
    body = net[:-1]
    loss = nn.functional.cross_entropy(net[-1](body(query.inputs[0])), query.targets[0])
    return loss + weight * nn.functional.cross_entropy(rotation(body(turns.inputs[0])), turns.targets[0])


def rotation_head(meta: Params) -> nn.Linear:
    layer = nn.Linear(20, 4).double()
    layer.load_state_dict({part: meta[f"rotation.{part}"] for part in ("weight", "bias")})
    return layer


def test_the_body_of_ttt_gets_both_losses_in_training() -> None:
    network, config = backbone(rotation=4), ttt(weight=0.7)
    meta, task = trained(network), episode(images(8))
    gradient = outer_gradient(config, network, meta, task)
    net, rotation = as_module(meta).train(), rotation_head(meta)
    joint_loss(net, rotation, task, 0.7).backward()
    expected = {name: each.grad for name, each in net.named_parameters()}
    expected |= {f"rotation.{name}": each.grad for name, each in rotation.named_parameters()}
    assert set(gradient) == set(expected)
    for name, grad in expected.items():
        torch.testing.assert_close(gradient[name], grad, rtol=1e-9, atol=1e-12)
    # Each loss alone gives the body another gradient.
    alone = as_module(meta).train()
    joint_loss(alone, rotation, task, 0.0).backward()
    first = alone[0].weight.grad
    assert first is not None and not torch.allclose(first, gradient["0.weight"], rtol=1e-3)


def domains(count: int) -> Episode:
    """One task: labelled images of one domain, and those of another one beside them."""
    source, target = images(count, 1), 0.5 * images(count + 2, 2) - 0.3
    roles = {QUERY: Batch(source[None], torch.arange(count).remainder(CLASSES)[None])}
    return Episode({**roles, DOMAINS: domains_of(source[None], target[None])})


def outer_gradient(config: AlgorithmConfig, network: ModuleBackbone, meta: Params, task: Episode) -> Params:
    terms = tuple(
        OuterTerm(
            term.role, OBJECTIVES[str(term.objective or "cross_entropy")], term.weight, term.at, term.head, term.reverse
        )
        for term in config.terms
    )
    learner = build_learner(config.learner, network, "cross_entropy")
    engine = EngineConfig(strategy="vmap", dtype="float64")
    return Engine(learner, build_estimator(config.estimator), terms, engine).update(meta, task)[0].grad


def test_deep_coral_brings_the_covariances_of_outputs_together() -> None:
    network, task, weight = backbone(), domains(7), 3.0
    meta, net = trained(network), as_module(trained(network)).train()
    query, both = task[QUERY], task[DOMAINS]
    assert query.targets is not None
    loss = nn.functional.cross_entropy(net(query.inputs[0]), query.targets[0])
    outputs = net(both.inputs[0])
    covariances = [torch.cov(part.T) for part in (outputs[:7], outputs[7:])]
    distance = torch.linalg.matrix_norm(covariances[0] - covariances[1]).square() / (4 * CLASSES**2)
    (loss + weight * distance).backward()
    found = outer_gradient(deep_coral(weight), network, meta, task)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-11)


def test_the_gradient_of_dann_is_reversed_in_the_body_alone() -> None:
    network, task, reverse, weight = backbone(domain=2), domains(6), 0.4, 0.7
    meta, net = trained(network), as_module({n: v for n, v in trained(network).items() if "domain" not in n}).train()
    head = nn.Linear(20, 2).double()
    head.load_state_dict({part: meta[f"domain.{part}"] for part in ("weight", "bias")})
    query, both = task[QUERY], task[DOMAINS]
    assert query.targets is not None and both.targets is not None
    of_classes = nn.functional.cross_entropy(net(query.inputs[0]), query.targets[0])
    of_domains = weight * nn.functional.cross_entropy(head(net[:-1](both.inputs[0])), both.targets[0])
    found = outer_gradient(dann(reverse, weight), network, meta, task)
    for name, parameter in net.named_parameters():
        expected = torch.autograd.grad(of_classes, parameter, retain_graph=True)[0]
        if not name.startswith("7."):
            expected = expected - reverse * torch.autograd.grad(of_domains, parameter, retain_graph=True)[0]
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-11)
    for name, parameter in head.named_parameters():
        expected = torch.autograd.grad(of_domains, parameter, retain_graph=True)[0]
        torch.testing.assert_close(found[f"domain.{name}"], expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("groups", [("body",), ("0", "1")])
def test_steps_of_ttt_are_plain_steps_on_rotations_of_what_they_name(groups: tuple[str, ...]) -> None:
    network, config = backbone(rotation=4), ttt(LR, 2, groups)
    meta, task = trained(network), episode(images(1))  # one image: its four orientations
    ops = one_by_one(learner_of(config, network, INDUCTIVE))
    net, rotation = as_module(meta).train(), rotation_head(meta)
    moving = [name for group in groups for name in network.groups()[group]]
    params = {name: each for name, each in net.named_parameters() if name in moving}
    optimizer, turns = torch.optim.SGD(params.values(), lr=LR), task[ROTATION]
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(rotation(net[:-1](turns.inputs[0])), turns.targets[0]).backward()  # type: ignore[index]
        optimizer.step()
    state = ops.adapt(meta, task)
    assert set(state.fast.moved) == set(moving)
    for name, value in params.items():
        torch.testing.assert_close(state.fast.moved[name][0], value.detach(), rtol=1e-9, atol=1e-12)
    # Queries go through the classification head with the running statistics that the steps have moved.
    expected = copy.deepcopy(net).eval()(task[QUERY].inputs[0]).detach()
    found = ops.predict(meta, state, task, task[QUERY].inputs, head="head")[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
