"""Small problems, and comparisons of gradients, for the numerics tests.

Shapes: T tasks, N support, Q query examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distmeta.config import (
    BackpropConfig,
    Conv4Config,
    EngineConfig,
    GradientConfig,
    MlpConfig,
    Phase,
)
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params, Update
from distmeta.engine.engine import Engine
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.displacement import Displacement
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone
from distmeta.models.base import HEAD, Backbone

from ..adapting import query_term

WAY = 3
LOOP = EngineConfig(strategy="loop")
VMAP = EngineConfig(strategy="vmap")
EXACT = Backprop(BackpropConfig(order=2))
FIRST_ORDER = Backprop(BackpropConfig(order=1))
DISPLACEMENT = Displacement()


def conv4(side: int = 16, dtype: torch.dtype = torch.float64, **settings: object) -> Backbone:
    """A narrow conv4 over grey images."""
    config = Conv4Config.model_validate({"filters": 4, **settings})
    return build_backbone(config, (1, side, side), {HEAD: WAY}, dtype)


def mlp(inputs: int = 6, outputs: int = WAY, hidden: tuple[int, ...] = (8, 7), **heads: int) -> Backbone:
    """A small float64 MLP; `heads` are the outputs of further heads."""
    return build_backbone(MlpConfig(hidden=hidden), (inputs,), {HEAD: outputs, **heads}, torch.float64)


def gradient(
    backbone: Backbone, *phases: Phase, objective: str = "cross_entropy", **settings: object
) -> GradientLearner:
    """A gradient learner of these phases."""
    config = GradientConfig.model_validate({"phases": phases, **settings})
    return GradientLearner(config, backbone, objective)


def classification(*shape: int, tasks: int = 2, shots: int = 2, queries: int = 3, seed: int = 0) -> Episode:
    """T tasks of WAY classes; inputs of `shape` are normal around a mean for each class."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(tasks, WAY, *shape, generator=rng, dtype=torch.float64)

    def batch(count: int) -> Batch:
        labels = torch.stack([torch.randperm(WAY * count, generator=rng) % WAY for _ in range(tasks)])
        noise = torch.randn(tasks, WAY * count, *shape, generator=rng, dtype=torch.float64)
        return Batch(means[torch.arange(tasks)[:, None], labels] + noise, labels)

    return Episode({SUPPORT: batch(shots), QUERY: batch(queries)})


def regression(inputs: int = 6, outputs: int = 2, tasks: int = 2, count: int = 5, seed: int = 0) -> Episode:
    """T tasks, each a random linear map with noise."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(tasks, inputs, outputs, generator=rng, dtype=torch.float64)

    def batch() -> Batch:
        x = torch.randn(tasks, count, inputs, generator=rng, dtype=torch.float64)
        return Batch(x, x @ maps + torch.randn(tasks, count, outputs, generator=rng, dtype=torch.float64))

    return Episode({SUPPORT: batch(), QUERY: batch()})


def quadratic(batch: Batch) -> tuple[Tensor, Tensor]:
    """H [D + 1, D + 1] and c [D + 1, O] of the mean squared error of a linear map: theta' H theta / 2 - c' theta."""
    assert batch.targets is not None
    design = torch.cat((batch.inputs, torch.ones_like(batch.inputs[:, :1])), dim=1)
    scale = 2 / batch.targets.numel()
    return scale * design.T @ design, scale * design.T @ batch.targets


def single_tasks(episodes: Episode) -> list[Episode]:
    """The tasks without a task axis."""
    return [episodes.map(lambda tensor, t=t: tensor[t]) for t in range(episodes.num_tasks)]


def as_type(episodes: Episode, dtype: torch.dtype) -> Episode:
    """The episodes with floating-point tensors of another type."""
    return episodes.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def perturbed(params: Params, seed: int = 7, size: float = 0.1) -> Params:
    """Parameters plus noise, so that no bias is zero and no scale is one."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.dtype)
        for name, tensor in params.items()
    }


def terms_of(episodes: Episode) -> tuple[OuterTerm, ...]:
    """The usual outer loss of these tasks: cross-entropy for labels, the squared error for numbers."""
    targets = episodes.query.targets
    assert targets is not None
    return query_term("mse" if targets.is_floating_point() else "cross_entropy")


def update(
    learner: Learner,
    estimator: Estimator,
    meta: Params,
    episodes: Episode,
    engine: EngineConfig = VMAP,
    terms: Sequence[OuterTerm] = (),
) -> Update:
    """The engine's update; the terms are the usual ones unless there are some."""
    return Engine(learner, estimator, terms or terms_of(episodes), engine).update(meta, episodes)[0]


def mean_gradient(
    learner: Learner,
    estimator: Estimator,
    meta: Params,
    episodes: Episode,
    engine: EngineConfig = VMAP,
    terms: Sequence[OuterTerm] = (),
) -> Params:
    """The engine's outer signal, averaged over the tasks."""
    total = update(learner, estimator, meta, episodes, engine, terms)
    return {name: grad / total.weight for name, grad in total.grad.items()}


def mean_over_tasks(gradients: list[Params]) -> Params:
    """The mean of the gradients of single tasks."""
    return {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}


def complete(grads: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Params:
    """The gradients with zeros for the names that have no signal; there must be no other name."""
    assert set(grads) <= set(expected)
    return {name: grads[name] if name in grads else torch.zeros_like(tensor) for name, tensor in expected.items()}


def relative_error(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """|actual - expected| / |expected| over all entries together; missing names are zero, shapes must be equal."""
    actual = complete(actual, expected)
    assert all(actual[name].shape == expected[name].shape for name in expected)
    difference = sum(float((actual[name] - expected[name]).double().square().sum()) for name in expected)
    size = sum(float(expected[name].double().square().sum()) for name in expected)
    assert size > 0
    return float((difference / size) ** 0.5)


def worst_relative_error(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], floor: float = 1e-4) -> float:
    """The largest relative error of a single tensor, so that errors of small tensors count.

    The denominator is at least `floor` times the norm of the whole gradient (a bias before batch norm has gradient 0).
    """
    actual = complete(actual, expected)
    least = floor * float(sum(tensor.double().square().sum() for tensor in expected.values()) ** 0.5)
    return max(
        float((actual[name] - expected[name]).double().norm()) / max(float(expected[name].double().norm()), least)
        for name in expected
    )
