"""The exact meta-gradient, compared with finite differences and with other libraries."""

from __future__ import annotations

from collections.abc import Callable

import higher
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor, nn

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import Episode, Params
from distmeta.engine.chunks import cut
from distmeta.engine.engine import one_by_one
from distmeta.methods.learners.base import Learner

from . import networks
from .problems import (
    EXACT,
    LOOP,
    VMAP,
    as_type,
    classification,
    complete,
    conv4,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    regression,
    relative_error,
    single_tasks,
    terms_of,
    worst_relative_error,
)

# The gradient jumps where the input of a ReLU crosses zero, also in inner steps. The step is so small that no input
# crosses zero, and float64 still leaves nine digits of the slope.
STEP = 1e-6


def mean_loss(learner: Learner, meta: Params, episodes: Episode) -> float:
    ops = one_by_one(learner, terms_of(episodes))
    tasks = [chunk.episodes for chunk in cut(episodes, 1)]
    return float(np.mean([float(ops.score(meta, ops.adapt(meta, task), task).metrics["loss"]) for task in tasks]))


def slope(learner: Learner, meta: Params, episodes: Episode, direction: Params) -> float:
    """Derivative along a direction by central differences."""

    def at(distance: float) -> float:
        with torch.no_grad():
            return mean_loss(learner, {n: x + distance * direction[n] for n, x in meta.items()}, episodes)

    return (at(STEP) - at(-STEP)) / (2 * STEP)


def directions(meta: Params, grads: Params) -> list[Params]:
    """Four random directions of length one, and the entry with the largest gradient of every second weight.

    Random directions have the signs of the gradient, so that the slope is not small by cancellation.
    """
    rng = torch.Generator().manual_seed(3)
    result = []
    for _ in range(4):
        draw = {
            name: torch.randn(grad.shape, generator=rng, dtype=torch.float64).abs() * torch.where(grad < 0, -1.0, 1.0)
            for name, grad in grads.items()
        }
        length = sum(tensor.square().sum() for tensor in draw.values()) ** 0.5
        result.append({name: tensor / length for name, tensor in draw.items()})
    for name in [name for name in meta if name.endswith("weight")][::2]:
        single = {other: torch.zeros_like(tensor) for other, tensor in meta.items()}
        single[name].view(-1)[grads[name].abs().argmax()] = 1.0
        result.append(single)
    return result


PROBLEMS: dict[str, Callable[[int], tuple[Learner, Params, Episode]]] = {}


def problem(function: Callable[[int], tuple[Learner, Params, Episode]]) -> None:
    PROBLEMS[function.__name__] = function


@problem
def mlp_regression(steps: int) -> tuple[Learner, Params, Episode]:
    backbone = mlp(outputs=2)
    return gradient(backbone, Phase(lr=0.05, steps=steps), objective="mse"), perturbed(backbone.init(0)), regression()


@problem
def mlp_classification(steps: int) -> tuple[Learner, Params, Episode]:
    backbone = mlp()
    return gradient(backbone, Phase(lr=0.3, steps=steps)), perturbed(backbone.init(0)), classification(6)


@problem
def mlp_adam(steps: int) -> tuple[Learner, Params, Episode]:
    backbone, phase = mlp(), Phase(lr=0.01, steps=steps, optimizer="adam", batch=4)
    return gradient(backbone, phase), perturbed(backbone.init(0)), classification(6)


@problem
def strided_conv4(steps: int) -> tuple[Learner, Params, Episode]:
    backbone = conv4()
    return gradient(backbone, Phase(lr=0.4, steps=steps)), perturbed(backbone.init(0)), classification(1, 16, 16)


@problem
def pooled_inductive_conv4(steps: int) -> tuple[Learner, Params, Episode]:
    backbone = conv4(downsample="pool", norm="support")
    return gradient(backbone, Phase(lr=0.2, steps=steps)), perturbed(backbone.init(0)), classification(1, 16, 16)


@problem
def group_norm_conv4(steps: int) -> tuple[Learner, Params, Episode]:
    backbone = conv4(28, filters=16, norm="group")
    return gradient(backbone, Phase(lr=0.2, steps=steps)), perturbed(backbone.init(0)), classification(1, 28, 28)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_gradient_is_that_of_central_differences(name: str, steps: int) -> None:
    learner, meta, episodes = PROBLEMS[name](steps)
    exact = complete(mean_gradient(learner, EXACT, meta, episodes), meta)
    for direction in directions(meta, exact):
        along = float(sum((exact[name] * direction[name]).sum() for name in meta))
        assert along == pytest.approx(slope(learner, meta, episodes, direction), rel=1e-7)


def by_higher(net: nn.Module, task: Episode, lr: float, steps: int) -> Tensor:
    """Query loss after SGD steps under `higher`'s tape."""
    query = task.query
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (fast, inner):
        for _ in range(steps):
            inner.step(F.cross_entropy(fast(task.support.inputs), task.support.targets))
        return F.cross_entropy(fast(query.inputs), query.targets)


def by_torchopt(net: nn.Module, task: Episode, lr: float, steps: int) -> Tensor:
    """Query loss after SGD steps of a differentiable optimizer, which replaces the module's parameters."""
    query, optimizer = task.query, torchopt.MetaSGD(net, lr=lr)
    for _ in range(steps):
        optimizer.step(F.cross_entropy(net(task.support.inputs), task.support.targets))
    return F.cross_entropy(net(query.inputs), query.targets)


def gradient_by(
    make: Callable[[], nn.Module], loss: Callable[[nn.Module, Episode], Tensor], meta: Params, episodes: Episode
) -> Params:
    """Mean over tasks of the meta-gradient of another library."""
    gradients = []
    for task in single_tasks(episodes):
        net = networks.with_values(make(), meta)
        start = dict(net.named_parameters())
        value = loss(net, task)
        gradients.append(dict(zip(start, torch.autograd.grad(value, list(start.values())), strict=True)))
    return mean_over_tasks(gradients)


Library = Callable[[nn.Module, Episode, float, int], Tensor]


def conv4_gradients(
    library: Library, pool: bool, dtype: torch.dtype, engine: EngineConfig, **tasks: int
) -> tuple[Params, Params]:
    """The exact meta-gradient of conv4 by the engine, and by another library."""
    backbone = conv4(28, dtype, filters=8, downsample="pool" if pool else "stride")
    meta, episodes = perturbed(backbone.init(0)), as_type(classification(1, 28, 28, **tasks), dtype)
    actual = mean_gradient(gradient(backbone, Phase(lr=0.2, steps=2)), EXACT, meta, episodes, engine)
    expected = gradient_by(
        lambda: networks.Conv4(8, 8, 3, pool=pool), lambda net, task: library(net, task, 0.2, 2), meta, episodes
    )
    return actual, expected


@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
@pytest.mark.parametrize("pool", [False, True], ids=["strided", "pooled"])
@pytest.mark.parametrize("library", [by_higher, by_torchopt])
def test_conv4_has_the_gradient_of_other_libraries(library: Library, pool: bool, engine: EngineConfig) -> None:
    actual, expected = conv4_gradients(library, pool, torch.float64, engine)
    assert relative_error(actual, expected) < 1e-10
    assert worst_relative_error(actual, expected) < 1e-9


@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
@pytest.mark.parametrize("pool", [False, True], ids=["strided", "pooled"])
def test_conv4_has_the_gradient_of_higher_in_float32(pool: bool, engine: EngineConfig) -> None:
    # In float32, rounding may flip the sign of a ReLU's input or the position of a maximum, in tasks that depend on the
    # processor. So several tasks are compared one by one, and most of them have to agree.
    pairs = [conv4_gradients(by_higher, pool, torch.float32, engine, tasks=1, seed=seed) for seed in range(5)]
    errors = sorted(relative_error(*pair) for pair in pairs)
    assert errors[2] < 1e-4
    assert sorted(worst_relative_error(*pair) for pair in pairs)[2] < 1e-2


@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_inner_adam_has_the_gradient_of_torchopt(beta1: float) -> None:
    backbone, beta2 = mlp(), 0.75  # torchopt computes powers of the betas in float32, which are exact for these
    meta, episodes = perturbed(backbone.init(0)), classification(6)

    def loss(net: nn.Module, task: Episode) -> Tensor:
        query = task.query
        optimizer = torchopt.MetaAdam(net, lr=0.02, betas=(beta1, beta2), eps=1e-8, eps_root=1e-16)
        for _ in range(3):
            optimizer.step(F.cross_entropy(net(task.support.inputs), task.support.targets))
        return F.cross_entropy(net(query.inputs), query.targets)

    learner = gradient(backbone, Phase(lr=0.02, steps=3, optimizer="adam", beta1=beta1, beta2=beta2))
    expected = gradient_by(lambda: networks.Mlp((6, 8, 7, 3)), loss, meta, episodes)
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes), expected) < 1e-9


@pytest.mark.parametrize("steps", [1, 3])
def test_inner_adam_is_differentiable_where_a_gradient_is_zero(steps: int) -> None:
    backbone = mlp()
    meta = perturbed(backbone.init(0))
    meta["block1.bias"][0] = -100.0  # this unit is never active: the gradient of its weights is exactly zero
    learner = gradient(backbone, Phase(lr=0.02, steps=steps, optimizer="adam"))
    grads = mean_gradient(learner, EXACT, meta, classification(6))
    assert all(bool(tensor.isfinite().all()) for tensor in grads.values())
    assert bool((grads["block1.weight"][0] == 0).all())
    assert bool((grads["block1.weight"][1:] != 0).any())
