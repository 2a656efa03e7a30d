"""Evolution against the exact gradient of the smoothed objective; windows against the whole trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.func import grad
from typing_extensions import override

from distmeta.config import (
    BackpropConfig,
    EngineConfig,
    EvolutionConfig,
)
from distmeta.config.estimators import EstimatorConfig
from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.estimators.base import Moment
from distmeta.methods.learners.base import Learner, Stage
from distmeta.methods.objectives import mse
from distmeta.models.base import HEAD
from distmeta.models.network import Network

from .optimizers import LSTM, MLP, STEPS, engine_of, learner_of, meta_of, seeded
from .problems import LOOP, mlp, regression, relative_error

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


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["compiled", "compiled_vmap"])
@pytest.mark.parametrize("estimator", [EvolutionConfig(window=2), BackpropConfig(window=2)])
@pytest.mark.usefixtures("interpreted")
def test_graphs_compute_the_same(estimator: EstimatorConfig, strategy: str) -> None:
    assert_graphs_agree(estimator, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["compiled", "compiled_vmap"])
@pytest.mark.parametrize("estimator", [EvolutionConfig(window=2), BackpropConfig(window=2)])
@pytest.mark.usefixtures("native")
def test_native_code_computes_the_same(estimator: EstimatorConfig, strategy: str) -> None:
    assert_graphs_agree(estimator, strategy)


def assert_graphs_agree(estimator: EstimatorConfig, strategy: str) -> None:
    """The first window, which begins with a start of its own, and one that goes on."""
    learner = learner_of(MLP)
    meta, episodes = meta_of(learner), seeded(regression(count=7))
    graphs = EngineConfig.model_validate({"strategy": strategy, "dtype": "float64"})
    engines, moment = [engine_of(learner, estimator), engine_of(learner, estimator, graphs)], Moment(0, episodes.seeds)
    for version in range(2):
        (eager, carry), (compiled, carried) = (engine.update(meta, episodes, moment) for engine in engines)
        assert relative_error(compiled.grad, eager.grad) < 1e-9
        for name, tensor in carry.items():
            torch.testing.assert_close(carried[name], tensor, rtol=1e-10, atol=1e-12)
        moment = Moment(version + 1, episodes.seeds, carry)
