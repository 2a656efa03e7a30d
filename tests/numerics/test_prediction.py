"""Weight generator and FiLM, compared with computations by hand in torch, and with central differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config import EngineConfig, FilmConfig, GeneratorConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.film import FilmLearner
from distmeta.methods.learners.generator import GeneratorLearner
from distmeta.models.base import Backbone, Frame
from distmeta.models.network import Network

from .problems import (
    EXACT,
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
OUTPUTS = 2
Outer = Callable[[Params, Episode], Tensor]


def generator(backbone: Backbone, layers: int = 2) -> GeneratorLearner:
    return GeneratorLearner(GeneratorConfig(layers=layers, width=5, scale=4.0), backbone, WAY)


def film(backbone: Backbone, *, classifies: bool, **settings: object) -> FilmLearner:
    config = FilmConfig.model_validate({"width": 5, "scale": 0.7, **settings})
    return FilmLearner(config, backbone, classifies=classifies, where="algorithm.learner")


def gradient_by_hand(meta: Params, episodes: Episode, outer: Outer) -> Params:
    """The mean over tasks of the gradient of the outer loss."""
    gradients = []
    for task in single_tasks(episodes):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        grads = torch.autograd.grad(outer(leaves, task), list(leaves.values()), allow_unused=True)
        gradients.append(
            {
                name: torch.zeros_like(leaf) if grad is None else grad
                for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
            }
        )
    return mean_over_tasks(gradients)


def means_by_hand(features: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([features[targets == label].mean(0) for label in range(WAY)])


def generator_by_hand(backbone: Backbone, layers: int) -> Outer:
    def outer(meta: Params, task: Episode) -> Tensor:
        assert task.support.targets is not None
        support, queries = (
            F.normalize(backbone.features(meta, role.inputs, Frame()), dim=1) for role in (task.support, task.query)
        )
        means = means_by_hand(support, task.support.targets)
        hidden = means
        if layers == 2:
            hidden = F.relu(F.linear(means, meta["generator.net.1.weight"], meta["generator.net.1.bias"]))
        weight = means + F.linear(hidden, meta[f"generator.net.{layers}.weight"])
        return F.cross_entropy(meta["generator.log_scale"].exp() * F.linear(queries, weight), task.query.targets)

    return outer


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
def test_the_generator_predicts_weights_from_class_means(layers: int, engine: EngineConfig) -> None:
    backbone, episodes = mlp(), classification(6)
    learner = generator(backbone, layers)
    meta = perturbed(learner.init(0), size=0.3)
    expected = gradient_by_hand(meta, episodes, generator_by_hand(backbone, layers))
    assert worst_relative_error(mean_gradient(learner, EXACT, meta, episodes, engine), expected) < TOLERANCE
    assert not any(name.startswith("head") for name in meta)


def test_a_new_generator_has_class_means_as_weights() -> None:
    backbone, episodes = mlp(), classification(6)
    meta = generator(backbone).init(0)
    (task, *_) = single_tasks(episodes)
    assert task.support.targets is not None
    support = F.normalize(backbone.features(meta, task.support.inputs, Frame()), dim=1)
    weight = generator(backbone).start(Network(backbone), meta, task).weight
    torch.testing.assert_close(weight, means_by_hand(support, task.support.targets))


def test_only_the_generator_has_a_signal_where_the_body_is_fixed() -> None:
    backbone, episodes = mlp(), classification(6)
    learner = generator(backbone)
    meta = perturbed(learner.init(0), size=0.3)
    whole = mean_gradient(learner, EXACT, meta, episodes)
    learner.fixed = frozenset(backbone.groups()["body"])
    for engine in (LOOP, VMAP):
        found = mean_gradient(learner, EXACT, meta, episodes, engine)
        assert set(found) == {name for name in meta if name.startswith("generator")}
        assert relative_error(found, {name: whole[name] for name in found}) < TOLERANCE


def test_inner_steps_may_move_what_is_fixed() -> None:
    """The fixed head moves within a task; the body has the gradient that it has where the head is meta-learned too."""
    backbone, episodes = mlp(), classification(6)
    learner = gradient(backbone, Phase(lr=0.3, steps=2))
    meta = perturbed(backbone.init(0))
    whole = mean_gradient(learner, EXACT, meta, episodes)
    learner.fixed = frozenset(backbone.groups()["head"])
    found = mean_gradient(learner, EXACT, meta, episodes)
    assert set(found) == set(backbone.groups()["body"])
    assert relative_error(found, {name: whole[name] for name in found}) < TOLERANCE


def modulation(meta: Params, features: Tensor, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Scale and shift of each layer."""
    hidden = F.linear(features, meta["film.encoder.1.weight"], meta["film.encoder.1.bias"])
    encoded = F.linear(F.relu(hidden), meta["film.encoder.2.weight"], meta["film.encoder.2.bias"])
    numbers = F.linear(F.relu(encoded.mean(0)), meta["film.modulation.weight"], meta["film.modulation.bias"])
    scales, shifts = numbers[: sum(sizes)].split(sizes), numbers[sum(sizes) :].split(sizes)
    return list(zip(scales, shifts, strict=True))


def film_waves_by_hand(meta: Params, task: Episode) -> Tensor:
    """Regression by an MLP whose layers' outputs are scaled and shifted, not its parameters."""

    def forward(x: Tensor, film: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        for layer, (scale, shift) in zip(("block1", "block2"), film, strict=False):
            x = F.relu((1 + scale) * F.linear(x, meta[f"{layer}.weight"], meta[f"{layer}.bias"]) + shift)
        scale, shift = film[-1]
        return x, (1 + scale) * F.linear(x, meta["head.weight"], meta["head.bias"]) + shift

    sizes = [8, 7, OUTPUTS]
    nothing = [(torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)) for size in sizes]
    assert task.support.targets is not None
    assert task.query.targets is not None
    read = torch.cat((forward(task.support.inputs, nothing)[0], task.support.targets), 1)
    outputs = forward(task.query.inputs, modulation(meta, read, sizes))[1]
    return F.mse_loss(outputs, task.query.targets)


def film_images_by_hand(meta: Params, task: Episode) -> Tensor:
    """Classification by conv4 whose normalised channels are scaled and shifted."""

    def features(x: Tensor, film: list[tuple[Tensor, Tensor]]) -> Tensor:
        for block, (scale, shift) in enumerate(film, start=1):
            x = F.conv2d(x, meta[f"block{block}.conv.weight"], stride=2, padding=1)
            x = F.batch_norm(x, None, None, meta[f"block{block}.norm.weight"], meta[f"block{block}.norm.bias"], True)
            x = F.relu((1 + scale)[:, None, None] * x + shift[:, None, None])
        return x.mean((2, 3))

    assert task.support.targets is not None
    nothing = [(torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))] * 4
    film = modulation(meta, features(task.support.inputs, nothing), [4] * 4)
    means = means_by_hand(features(task.support.inputs, film), task.support.targets)
    logits = -0.7 * (features(task.query.inputs, film)[:, None] - means).square().sum(2)
    return F.cross_entropy(logits, task.query.targets)


CASES: dict[str, tuple[Callable[[], Backbone], Callable[[], Episode], Outer]] = {
    "waves": (
        lambda: mlp(outputs=OUTPUTS),
        lambda: regression(outputs=OUTPUTS),
        film_waves_by_hand,
    ),
    "images": (conv4, lambda: classification(1, 16, 16), film_images_by_hand),
}


def film_problem(case: str) -> tuple[Learner, Params, Episode, Outer]:
    make_backbone, make_episodes, outer = CASES[case]
    learner = film(make_backbone(), classifies=case == "images")
    return learner, perturbed(learner.init(0), size=0.2), make_episodes(), outer


@pytest.mark.parametrize("case", CASES)
def test_film_scales_and_shifts_what_layers_give(case: str) -> None:
    learner, meta, episodes, outer = film_problem(case)
    expected = gradient_by_hand(meta, episodes, outer)
    for engine in (LOOP, VMAP):
        found = mean_gradient(learner, EXACT, meta, episodes, engine)
        assert worst_relative_error(found, expected, floor=1e-3) < 1e-9


@pytest.mark.parametrize("name", ["generator", "film"])
def test_the_gradient_is_that_of_central_differences(name: str) -> None:
    made: Learner
    if name == "generator":
        made, episodes = generator(mlp()), classification(6)
        loss = generator_by_hand(made.backbone, 2)
    else:
        made, episodes, loss = film(mlp(outputs=OUTPUTS), classifies=False), regression(), film_waves_by_hand
    meta = perturbed(made.init(0), size=0.2)
    direction = perturbed({name: torch.zeros_like(tensor) for name, tensor in meta.items()}, seed=3, size=1.0)
    size = 1e-6

    def value(sign: int) -> Tensor:
        moved = {name: tensor + sign * size * direction[name] for name, tensor in meta.items()}
        return torch.stack([loss(moved, task) for task in single_tasks(episodes)]).mean()

    slope = (value(1) - value(-1)) / (2 * size)
    found = mean_gradient(made, EXACT, meta, episodes)
    along = sum(float((grad * direction[name]).sum()) for name, grad in found.items())
    assert along == pytest.approx(float(slope), rel=1e-6)


def test_a_group_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="unknown parameter group 'nrom'"):
        film(conv4(), classifies=True, groups=("nrom",))
