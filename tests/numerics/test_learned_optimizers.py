"""Learned optimizers against loops in plain torch, outer gradients against differences, evolution against the exact
gradient of the smoothed objective.

Shapes: T tasks, P entries of the parameters, N support examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad
from typing_extensions import override

from distmeta.config import (
    AdamRuleConfig,
    BackpropConfig,
    EngineConfig,
    EvolutionConfig,
    LearnedOptimizerConfig,
    LstmRuleConfig,
    MlpConfig,
    MlpRuleConfig,
)
from distmeta.config.estimators import EstimatorConfig
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.engine.engine import Engine
from distmeta.methods.estimators import build_estimator
from distmeta.methods.estimators.base import Moment
from distmeta.methods.learners.base import Learner, Stage
from distmeta.methods.learners.learned_optimizer import OptimizerLearner
from distmeta.methods.learners.rules.mlp import TIMES
from distmeta.methods.objectives import mse
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.network import Network

from ..adapting import walk
from .problems import LOOP, VMAP, mlp, perturbed, regression, relative_error, single_tasks

STEPS = 6
EACH = (OuterTerm(QUERY, mse, at="each"),)
LSTM = LstmRuleConfig(width=5, preprocess=3.0)
MLP = MlpRuleConfig(width=6, decays=(0.5, 0.9), second_decay=0.99, scale=0.05, exponent=0.3, nominal=0.7)


def learner_of(rule: Any, **fields: object) -> OptimizerLearner:
    config = LearnedOptimizerConfig.model_validate({"rule": rule, "steps": STEPS, "batch": 3, **fields})
    return OptimizerLearner(config, mlp(outputs=2, hidden=(4,)), "mse")


def meta_of(learner: Learner) -> Params:
    return perturbed(learner.init(0), size=0.3)


def seeded(episodes: Episode, first: int = 0) -> Episode:
    return Episode(episodes.roles, torch.arange(first, first + episodes.num_tasks))


def engine_of(learner: Learner, estimator: EstimatorConfig, config: EngineConfig = VMAP) -> Engine:
    return Engine(learner, build_estimator(estimator), EACH, config)


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


# Evolution, against the exact gradient: where the loss is quadratic in the perturbations, smoothing does not change it


class Pushed(Learner):
    """Gradient descent with a learned push at every step; the whole trajectory is linear in the meta-parameters."""

    def __init__(self, steps: int) -> None:
        super().__init__(mlp(inputs=3, outputs=1, hidden=()))
        self._num_steps = steps

    @override
    def init(self, seed: int) -> Params:
        return {"push.weight": torch.full((1, 3), 0.2), "push.bias": torch.full((1,), -0.1)}

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Params:
        return {"head.weight": task.support.inputs[:1] * 0 + 1.0, "head.bias": task.support.inputs[0, :1] * 0}

    @override
    def stages(self, rows: Mapping[str, int]) -> list[Stage]:
        return [Stage()] * self._num_steps

    @override
    def advance(self, net: Network, meta: Params, fast: Params, batch: Batch, kind: int, scalars: Tensor) -> Params:
        slope = grad(lambda params: mse(lambda x: net(params, x), batch)[0])(fast)
        return {name: fast[name] - 0.02 * slope[name] + meta[name.replace("head", "push")] for name in fast}

    @override
    def predict(
        self, net: Network, meta: Params, fast: Params, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        return net(fast, inputs)


def evolved(estimator: EvolutionConfig, tasks: int) -> tuple[Tensor, Tensor]:
    """Mean over tasks of the signal of a whole trajectory, all windows together, and its standard error."""
    learner, problem = Pushed(STEPS), regression(inputs=3, outputs=1, tasks=1)
    meta = {name: tensor.double() for name, tensor in learner.init(0).items()}
    engine, size, shards = engine_of(learner, estimator), 400, []
    for first in range(0, tasks, size):
        episodes = seeded(problem.map(lambda tensor: tensor.expand(size, *tensor.shape[1:])), first)
        total, carry = torch.zeros(4, dtype=torch.float64), Params()
        for version in range(1 if estimator.window is None else STEPS // estimator.window):
            update, carry = engine.update(meta, episodes, Moment(version, episodes.seeds, carry))
            total += torch.cat([update.grad[name].flatten() for name in meta]) / size
        shards.append(total)
    signals = torch.stack(shards)
    return signals.mean(0), signals.std(0) / math.sqrt(len(signals))


def exact() -> Tensor:
    learner, episodes = Pushed(STEPS), seeded(regression(inputs=3, outputs=1, tasks=1))
    meta = {name: tensor.double() for name, tensor in learner.init(0).items()}
    gradient = engine_of(learner, BackpropConfig()).update(meta, episodes)[0].grad
    return torch.cat([gradient[name].flatten() for name in meta])


@pytest.mark.parametrize("window", [None, 2])
def test_full_and_persistent_evolution_have_no_bias(window: int | None) -> None:
    mean, error = evolved(EvolutionConfig(std=0.3, window=window), 12_000)
    assert bool(((mean - exact()).abs() < 3 * error).all()), (mean, exact(), error)
    assert float(error.norm() / exact().norm()) < 0.05  # precise enough to tell


def test_truncated_evolution_has_that_of_truncated_backpropagation() -> None:
    mean, error = evolved(EvolutionConfig(std=0.3, window=2, persistent=False), 12_000)
    learner, episodes = Pushed(STEPS), seeded(regression(inputs=3, outputs=1, tasks=1))
    meta = {name: tensor.double() for name, tensor in learner.init(0).items()}
    engine, carry, truncated = engine_of(learner, BackpropConfig(window=2), LOOP), Params(), torch.zeros(4).double()
    for version in range(STEPS // 2):
        update, carry = engine.update(meta, episodes, Moment(version, episodes.seeds, carry))
        truncated += torch.cat([update.grad[name].flatten() for name in meta])
    assert bool(((mean - truncated).abs() < 3 * error).all()), (mean, truncated, error)
    assert bool(((mean - exact()).abs() > 10 * error).any())


def test_perturbations_are_those_of_the_task_wherever_it_is_computed() -> None:
    learner = learner_of(MLP)
    meta, episodes = meta_of(learner), seeded(regression(count=7, tasks=4))
    engine = engine_of(learner, EvolutionConfig(window=3))
    whole, carry = engine.update(meta, episodes)
    parts = [engine.update(meta, seeded(episodes.select([task]), task)) for task in range(4)]
    for name in meta:
        total = torch.stack([update.grad[name] for update, _ in parts]).sum(0)
        torch.testing.assert_close(whole.grad[name], total, rtol=1e-9, atol=1e-12)
    for name, tensor in carry.items():
        torch.testing.assert_close(tensor, torch.cat([each[name] for _, each in parts]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("estimator", [EvolutionConfig(window=2), BackpropConfig(window=2)])
def test_windows_walk_the_trajectory_of_the_whole(estimator: EstimatorConfig) -> None:
    """With perturbations of zero size, the losses of all windows add up to that of all inner steps at once."""
    learner = learner_of(LSTM)
    meta, episodes = meta_of(learner), seeded(regression(count=7))
    if estimator.kind == "evolution":
        estimator = estimator.model_copy(update={"std": 1e-13})
    engine, carry, total = engine_of(learner, estimator), Params(), 0.0
    for version in range(STEPS // 2):
        update, carry = engine.update(meta, episodes, Moment(version, episodes.seeds, carry))
        total += update.metrics["loss"]
    whole = engine_of(learner, EvolutionConfig(std=1e-13)).update(meta, episodes)[0].metrics["loss"]
    assert total == pytest.approx(whole, rel=1e-9)
    other = Episode(episodes.roles, episodes.seeds + 1)  # another task begins anew
    begun, carry = engine.update(meta, other, Moment(9, other.seeds, carry))
    assert begun.metrics["loss"] == pytest.approx(engine.update(meta, other)[0].metrics["loss"], rel=1e-12)
    assert carry["step"].tolist() == [2, 2]
