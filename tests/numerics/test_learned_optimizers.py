"""Learned optimizers against loops in plain torch; gradients of windows against differences.

Shapes: T tasks, P entries of the parameters, N support examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

from distmeta.config import (
    AdamRuleConfig,
    BackpropConfig,
    EngineConfig,
    LearnedOptimizerConfig,
    MlpConfig,
)
from distmeta.core.types import SUPPORT, Batch, Episode, Params
from distmeta.methods.estimators.base import Moment
from distmeta.methods.learners.learned_optimizer import OptimizerLearner
from distmeta.methods.learners.rules.mlp import TIMES
from distmeta.methods.objectives import mse
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.network import Network

from ..adapting import walk
from .optimizers import LSTM, MLP, STEPS, engine_of, learner_of, meta_of, seeded
from .problems import regression, relative_error, single_tasks

# The rules, against torch's own modules and a loop over tensors


def by_lstm(own: Params) -> Callable[[list[Tensor]], list[Tensor]]:
    """Updates by `torch.nn.LSTMCell`, whose gates have another order: input, forget, candidate, output as here."""
    cells = []
    for layer, inputs in (("layer1", 2), ("layer2", 5)):
        cell = nn.LSTMCell(inputs, 5).double()
        names = ("input.weight", "hidden.weight", "input.bias")
        for target, name in zip(("weight_ih", "weight_hh", "bias_ih"), names, strict=True):
            getattr(cell, target).data = own[f"{layer}.{name}"]
        cell.bias_hh.data.zero_()
        cells.append(cell)
    states: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def step(grads: list[Tensor]) -> list[Tensor]:
        updates = []
        for i, g in enumerate(grads):
            g = g.flatten()
            large = g.abs() >= math.exp(-3)
            size = torch.where(large, g.abs().log() / 3, -1.0)
            x = torch.stack((size, torch.where(large, g.sign(), math.exp(3) * g)), 1)
            for j, cell in enumerate(cells):
                zeros = torch.zeros(len(g), 5, dtype=torch.float64)
                states[i, j] = cell(x, states.get((i, j), (zeros, zeros)))
                x = states[i, j][0]
            updates.append(0.1 * F.linear(x, own["out.weight"], own["out.bias"])[:, 0].reshape(grads[i].shape))
        return updates

    return step


def by_mlp(own: Params, params: list[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """Updates as the equations say, entry by entry of what is remembered."""
    momenta = [[torch.zeros_like(p) for _ in MLP.decays] for p in params]
    second = [torch.zeros_like(p) for p in params]
    count = 0

    def step(grads: list[Tensor]) -> list[Tensor]:
        nonlocal count
        updates = []
        time = [math.tanh(count / t - 1) for t in TIMES] + [2 * count / STEPS - 1]
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            second[i] = 0.99 * second[i] + 0.01 * g**2
            momenta[i] = [d * m + (1 - d) * g for d, m in zip(MLP.decays, momenta[i], strict=True)]
            root = (second[i] / (1 - 0.99 ** (count + 1))).sqrt() + 1e-8
            adam = [m / (1 - d ** (count + 1)) / root for d, m in zip(MLP.decays, momenta[i], strict=True)]
            scaled = [x / x.square().mean().sqrt() if bool(x.any()) else x for x in (p, g, *momenta[i])]
            x = torch.stack([each.flatten() for each in (*scaled, *adam)], 1)
            x = torch.cat((x, torch.tensor(time, dtype=torch.float64).expand(len(x), -1)), 1)
            weight = torch.cat((own["input.weight"], own["time.weight"]), 1)
            x = F.linear(x, weight, own["input.bias"]).relu()
            x = F.linear(x, own["hidden.1.weight"], own["hidden.1.bias"]).relu()
            out = F.linear(x, own["out.weight"], own["out.bias"])
            direction = out[:, 0] + 0.7 * adam[0].flatten()
            updates.append((-0.05 * (0.3 * out[:, 1]).exp() * direction).reshape(p.shape))
        count += 1
        return updates

    return step


@pytest.mark.parametrize("rule", [LSTM, MLP])
def test_trajectories_are_those_of_a_plain_loop(rule: Any) -> None:
    learner = learner_of(rule)
    meta, task = meta_of(learner), single_tasks(regression(count=7))[0]
    states = walk(learner, meta, task)
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    names = ("block1.weight", "block1.bias", "head.weight", "head.bias")
    shapes = [tensor.shape for tensor in network.parameters()]
    assert [learner.backbone.init(0)[name].shape for name in names] == shapes
    params = [part.reshape(s) for part, s in zip(states[0].params.split([24, 4, 8, 2]), shapes, strict=True)]
    own = {name.removeprefix("optimizer."): tensor for name, tensor in meta.items()}
    step = by_lstm(own) if rule is LSTM else by_mlp(own, params)
    for k in range(STEPS):
        rows = [(3 * k + i) % 7 for i in range(3)]
        for tensor, value in zip(network.parameters(), params, strict=True):
            tensor.data = value.clone()
        loss = F.mse_loss(network(task.support.inputs[rows]), task.support.targets[rows])
        grads = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for value, update in zip(params, step(list(grads)), strict=True):
                value += update
        expected = torch.cat([value.flatten() for value in params])
        torch.testing.assert_close(states[k + 1].params, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_adam_is_that_of_torch(schedule: Any) -> None:
    learner = learner_of(AdamRuleConfig(lr=0.05, beta1=0.8, beta2=0.95, schedule=schedule))
    task = single_tasks(regression(count=7))[0]
    states = walk(learner, learner.init(0), task)
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    nn.utils.vector_to_parameters(states[0].params.clone(), network.parameters())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, betas=(0.8, 0.95))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for k in range(STEPS):
        rows = [(3 * k + i) % 7 for i in range(3)]
        optimizer.zero_grad()
        F.mse_loss(network(task.support.inputs[rows]), task.support.targets[rows]).backward()
        optimizer.step()
        if schedule == "cosine":
            falling.step()
        expected = nn.utils.parameters_to_vector(network.parameters())
        torch.testing.assert_close(states[k + 1].params, expected, rtol=1e-7, atol=1e-10)


def test_initial_values_have_the_spread_of_the_network() -> None:
    backbone = build_backbone(MlpConfig(hidden=(30,)), (50,), {HEAD: 10}, torch.float64)
    learner = OptimizerLearner(LearnedOptimizerConfig(steps=0, init_scale=2.0), backbone, "mse")
    empty = Batch(torch.zeros(400, 1, 50, dtype=torch.float64), torch.zeros(400, 1, 10, dtype=torch.float64))
    engine = engine_of(learner, BackpropConfig())
    task = Episode({SUPPORT: empty}, torch.arange(400))
    params = next(iter(engine._ops.walk(meta_of(learner), task, marks=(0,)))).state.fast.params
    weight, bias = params[:, :1500], params[:, 1500:1530]
    assert not bias.any()
    bound = 2 * math.sqrt(6 / 80)
    assert float(weight.abs().max()) == pytest.approx(bound, rel=0.02)
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert abs(float(weight.mean())) < 0.002
    assert float(torch.corrcoef(weight[:2])[0, 1].abs()) < 0.1


# Truncated backpropagation, against central differences


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("strategy", ["vmap", "loop"])
@pytest.mark.parametrize("rule", [LSTM, MLP])
def test_a_window_is_differentiated_from_where_it_begins(rule: Any, strategy: str, memory: str) -> None:
    learner = learner_of(rule, second_order=True)
    meta, episodes = meta_of(learner), seeded(regression(count=7))
    config = EngineConfig.model_validate({"strategy": strategy, "memory": memory, "dtype": "float64"})
    engine = engine_of(learner, BackpropConfig(window=2), config)
    _, carry = engine.update(meta, episodes)
    moment = Moment(1, episodes.seeds, carry)
    update, after = engine.update(meta, episodes, moment)
    assert after["step"].tolist() == [4, 4]

    def loss(changed: Params) -> float:
        return engine.update(changed, episodes, moment)[0].metrics["loss"]

    for name in ("optimizer.out.weight", "optimizer.out.bias", next(iter(meta))):
        for index in ((0,) * meta[name].dim(), tuple(size - 1 for size in meta[name].shape)):
            step = torch.zeros_like(meta[name])
            step[index] = 1e-6
            up, down = ({**meta, name: meta[name] + sign * step} for sign in (1, -1))
            slope = (loss(up) - loss(down)) / 2e-6
            assert float(update.grad[name][index]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_gradients_that_count_as_given_are_not_differentiated() -> None:
    """Against autograd through a loop with detached gradients."""
    learner, episodes = learner_of(MLP), seeded(regression(count=7, tasks=1))
    meta, task = meta_of(learner), single_tasks(episodes)[0]
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    own = {name.removeprefix("optimizer."): tensor for name, tensor in leaves.items()}
    net, total = Network(learner.backbone), torch.zeros((), dtype=torch.float64)
    fast = learner.start(net, leaves, task)
    for stage in learner.stages({SUPPORT: 7}):
        batch = stage.select(task)

        def inner(params: Tensor, batch: Batch = batch) -> Tensor:
            return F.mse_loss(net(learner._start.named(params), batch.inputs), batch.targets)

        given = grad(inner)(fast.params.detach())
        scalars = torch.tensor(stage.scalars, dtype=torch.float64)
        update, slots = learner.rule.update(own, fast.slots, given, fast.params, scalars, learner._start.sizes)
        fast = fast._replace(params=fast.params + update, slots=slots)
        total = total + mse(lambda x, fast=fast: learner.predict(net, leaves, fast, task, x), task.query)[0]
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    first = engine_of(learner, BackpropConfig()).update(meta, episodes)[0].grad
    assert relative_error(first, expected) < 1e-10
    second = engine_of(learner_of(MLP, second_order=True), BackpropConfig()).update(meta, episodes)[0].grad
    assert relative_error(second, expected) > 1e-3
