"""Small problems and ways to compare gradients, shared by the numerics tests.

Shapes: T tasks, N support, Q query examples.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from distmeta.core.types import Batch, Episode, Params, Term, Update
from distmeta.engine.engine import Engine
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.displacement import Displacement
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models import build_backbone
from distmeta.models.base import Backbone

WAY = 3
LOOP = EngineConfig(strategy="loop")
VMAP = EngineConfig(strategy="vmap")
EXACT = Backprop(BackpropConfig(order=2))
FIRST_ORDER = Backprop(BackpropConfig(order=1))
DISPLACEMENT = Displacement()


def conv4(side: int = 16, dtype: torch.dtype = torch.float64, **settings: object) -> Backbone:
    """A narrow conv4 over grey images."""
    config = Conv4Config.model_validate({"filters": 4, **settings})
    return build_backbone(config, (1, side, side), WAY, dtype)


def mlp(inputs: int = 6, outputs: int = WAY, hidden: tuple[int, ...] = (8, 7)) -> Backbone:
    """A small float64 MLP."""
    return build_backbone(MlpConfig(hidden=hidden), (inputs,), outputs, torch.float64)


def gradient(
    backbone: Backbone, *phases: Phase, objective: str = "cross_entropy", evaluating: bool = False, **settings: object
) -> GradientLearner:
    """A gradient learner of these phases."""
    config = GradientConfig.model_validate({"phases": phases, **settings})
    return GradientLearner(config, backbone, objective, evaluating=evaluating)


def classification(*shape: int, tasks: int = 2, shots: int = 2, queries: int = 3, seed: int = 0) -> Episode:
    """T tasks of WAY classes with normal inputs of `shape`: class means differ, so there is something to learn."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(tasks, WAY, *shape, generator=rng, dtype=torch.float64)

    def batch(count: int) -> Batch:
        labels = torch.stack([torch.randperm(WAY * count, generator=rng) % WAY for _ in range(tasks)])
        noise = torch.randn(tasks, WAY * count, *shape, generator=rng, dtype=torch.float64)
        return Batch(means[torch.arange(tasks)[:, None], labels] + noise, labels)

    return Episode(batch(shots), (Term(batch(queries)),))


def regression(inputs: int = 6, outputs: int = 2, tasks: int = 2, count: int = 5, seed: int = 0) -> Episode:
    """T tasks of a random linear map with noise."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(tasks, inputs, outputs, generator=rng, dtype=torch.float64)

    def batch() -> Batch:
        x = torch.randn(tasks, count, inputs, generator=rng, dtype=torch.float64)
        return Batch(x, x @ maps + torch.randn(tasks, count, outputs, generator=rng, dtype=torch.float64))

    return Episode(batch(), (Term(batch(), objective="mse"),))


def single_tasks(episodes: Episode) -> list[Episode]:
    """The tasks one by one, without a task axis."""
    return [episodes.map(lambda tensor, t=t: tensor[t]) for t in range(episodes.num_tasks)]


def as_type(episodes: Episode, dtype: torch.dtype) -> Episode:
    """The same with floating-point tensors of another type."""
    return episodes.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def perturbed(params: Params, seed: int = 7, size: float = 0.1) -> Params:
    """Parameters away from their tidy start, so that no bias is zero and no scale is one."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.dtype)
        for name, tensor in params.items()
    }


def update(
    learner: Learner, estimator: Estimator, meta: Params, episodes: Episode, engine: EngineConfig = VMAP
) -> Update:
    """What the engine makes of the tasks."""
    return Engine(learner, estimator, engine).update(meta, episodes)


def mean_gradient(
    learner: Learner, estimator: Estimator, meta: Params, episodes: Episode, engine: EngineConfig = VMAP
) -> Params:
    """The engine's outer signal, averaged over the tasks."""
    found = update(learner, estimator, meta, episodes, engine)
    return {name: grad / found.weight for name, grad in found.grad.items()}


def mean_over_tasks(gradients: list[Params]) -> Params:
    """The mean of the tasks' own gradients."""
    return {name: torch.stack([one[name] for one in gradients]).mean(0) for name in gradients[0]}


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """|found - expected| / |expected| over all entries together, after checking that names and shapes agree."""
    assert set(found) == set(expected)
    assert all(found[name].shape == expected[name].shape for name in expected)
    difference = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    size = sum(float(expected[name].double().square().sum()) for name in expected)
    assert size > 0
    return float((difference / size) ** 0.5)


def worst_relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], floor: float = 1e-4) -> float:
    """The largest relative error of any one tensor: a small tensor that is wrong does not hide behind a large one.

    Tensors below `floor` times the whole gradient are measured against that (a bias before batch norm has gradient 0).
    """
    assert set(found) == set(expected)
    least = floor * float(sum(tensor.double().square().sum() for tensor in expected.values()) ** 0.5)
    return max(
        float((found[name] - expected[name]).double().norm()) / max(float(expected[name].double().norm()), least)
        for name in expected
    )
