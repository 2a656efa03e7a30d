"""Parameters that differ by the number of inner steps, compared with loops written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models.base import Backbone

from ..adapting import query_term
from .problems import EXACT, classification, conv4, gradient, mean_gradient, mlp, perturbed, worst_relative_error
from .test_inner_loops import (
    ANNEALED,
    ENGINES,
    STEPS,
    TOLERANCE,
    Loss,
    annealed,
    estimate,
    gradient_by_hand,
    loss_of,
    modulated,
)

PREFIX = "step."


def at(meta: Params, k: int) -> Params:
    """The parameters after k steps that no step moves."""
    return {name.removeprefix(PREFIX): tensor[k] for name, tensor in meta.items() if name.startswith(PREFIX)}


def by_hand(meta: Params, task: Episode, weights: list[float], loss: Loss, rate: float) -> Tensor:
    """Steps on all other parameters, each followed by a weighted score."""
    moving = [name for name in meta if not name.startswith((PREFIX, "inner_lr."))]
    fast, total = {name: meta[name] for name in moving}, torch.zeros((), dtype=torch.float64)
    for k, weight in enumerate(weights):
        slopes = torch.autograd.grad(
            loss({**fast, **at(meta, k)}, task.support), list(fast.values()), create_graph=True
        )
        rates = [meta.get(f"inner_lr.{name}", torch.full((STEPS,), rate, dtype=torch.float64))[k] for name in moving]
        fast = {name: tensor - r * slope for (name, tensor), slope, r in zip(fast.items(), slopes, rates, strict=True)}
        total = total + weight * loss({**fast, **at(meta, k + 1)}, task.query)
    return total


def plain(params: Params) -> dict[str, Tensor]:
    return {
        "context": torch.zeros(1, dtype=torch.float64),
        "block3.film.weight": torch.zeros(2 * 4, 1).double(),
        **params,
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("learned", [pytest.param(False, marks=pytest.mark.slow), "layer_step"])
@pytest.mark.usefixtures("interpreted")
def test_the_signal_is_that_of_a_loop_by_hand(learned: bool | str, engine: EngineConfig) -> None:
    learner = gradient(mlp(), Phase(lr=0.3, steps=STEPS), learned_lr=learned, per_step=("block2",))
    episodes, meta = classification(6), perturbed(learner.init(0), size=0.05)
    assert meta["step.block2.bias"].shape[0] == STEPS + 1
    assert "block2.bias" not in meta
    expected = gradient_by_hand(meta, episodes, lambda meta, task: by_hand(meta, task, annealed(3, 8), loss_of, 0.3))
    assert all(bool(slopes.any()) for slopes in expected["step.block2.weight"])
    actual = estimate(learner, ANNEALED, meta, episodes, 3, engine)
    assert worst_relative_error(actual, expected) < TOLERANCE


def test_steps_of_several_phases_are_counted_together() -> None:
    phases = (Phase(lr=0.3, steps=1), Phase(lr=0.3, steps=STEPS - 1, batch=10**6))
    one, two = (gradient(mlp(), *each, per_step=("block1",)) for each in ((Phase(lr=0.3, steps=STEPS),), phases))
    meta, episodes = perturbed(one.init(0), size=0.05), classification(6)
    assert two.init(0).keys() == meta.keys()
    actual, expected = (mean_gradient(learner, EXACT, meta, episodes) for learner in (two, one))
    assert worst_relative_error(actual, expected) < 1e-13


def test_norms_of_conv4_by_step() -> None:
    learner = gradient(conv4(), Phase(lr=0.3, steps=2), per_step=("norm",))
    episodes, meta = classification(1, 16, 16), perturbed(learner.init(0), size=0.05)
    assert {name for name in meta if name.startswith(PREFIX)} == {
        f"step.block{block}.norm.{end}" for block in range(1, 5) for end in ("weight", "bias")
    }

    def loss(params: Params, batch: object) -> Tensor:
        return modulated(plain(params), batch)  # type: ignore[arg-type]

    expected = gradient_by_hand(meta, episodes, lambda meta, task: by_hand(meta, task, [0.0, 1.0], loss, 0.3))
    actual = mean_gradient(learner, EXACT, meta, episodes)
    assert worst_relative_error({name: actual[name] for name in actual if "conv.bias" not in name}, expected) < 1e-9


def test_equal_values_are_parameters_that_no_step_moves() -> None:
    backbone = mlp()
    stepped = gradient(backbone, Phase(lr=0.3, steps=STEPS), per_step=("block2",))
    still = gradient(backbone, Phase(lr=0.3, steps=STEPS), frozen=("block2",))
    plain_meta, episodes = backbone.init(0), classification(6)
    expected = mean_gradient(still, EXACT, plain_meta, episodes)
    actual = mean_gradient(stepped, EXACT, stepped.init(0), episodes)
    for name, slope in expected.items():
        of_steps = actual[PREFIX + name].sum(0) if PREFIX + name in actual else actual[name]
        torch.testing.assert_close(of_steps, slope, rtol=1e-11, atol=1e-14)


def test_what_is_scored_without_adaptation_has_the_values_before_the_first_step() -> None:
    learner = gradient(mlp(), Phase(lr=0.3, steps=STEPS), per_step=("block2",))
    meta = perturbed(learner.init(0), size=0.05)
    terms = tuple(replace(term, at="meta") for term in query_term())
    grad = mean_gradient(learner, EXACT, meta, classification(6), terms=terms)
    assert bool(grad["step.block2.bias"][0].any())
    assert not grad["step.block2.bias"][1:].any()


def test_an_unknown_group_is_refused() -> None:
    backbone: Backbone = mlp()
    with pytest.raises(UserError, match=r"algorithm.learner.per_step: unknown parameter group 'norm'"):
        gradient(backbone, Phase(), per_step=("norm",))
    assert isinstance(gradient(backbone, Phase()), GradientLearner)
