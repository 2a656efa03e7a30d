"""Derivatives of the policy gradient and of methods on interactive tasks, where trajectories can be enumerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, GradientConfig, Phase, PolicyGradientConfig
from distmeta.core.types import Batch, Params
from distmeta.engine.engine import Engine
from distmeta.engine.ops import EagerOps
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.policy_gradient import PolicyGradient
from distmeta.methods.terms import OuterTerm
from distmeta.tasks.recording import Recording

from ..tabular import HORIZON, episodes, exact_loss, policy, trajectories
from .problems import EXACT, FIRST_ORDER

INNER_RATE = 3.0
PLAIN = {"baseline": "none", "normalise": False, "discount": 1.0}


def start() -> Params:
    rng = torch.Generator().manual_seed(4)
    return {
        name: 0.7 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
        for name, tensor in policy().init(0).items()
    }


def settings(**fields: object) -> PolicyGradientConfig:
    return PolicyGradientConfig.model_validate({**PLAIN, **fields})


def learner_of(inner: PolicyGradientConfig, steps: int = 1) -> GradientLearner:
    config = GradientConfig(phases=(Phase(lr=INNER_RATE, steps=steps, objective=inner),))
    return GradientLearner(config, policy(), "policy_gradient")


def term(config: PolicyGradientConfig) -> tuple[OuterTerm, ...]:
    return (OuterTerm("query", PolicyGradient(config)),)


def flat(params: Params) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in params.values()])


def unflat(vector: Tensor, like: Params) -> Params:
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def derivatives(loss: Callable[[Params], Tensor], order: int) -> Tensor:
    """The derivative tensor of a scalar at `start()`."""
    like, function = start(), lambda vector: loss(unflat(vector, start()))
    for _ in range(order):
        function = torch.func.jacrev(function)
    return function(flat(like))


def expected(config: PolicyGradientConfig) -> Callable[[Params], Tensor]:
    """The mean of the objective over all trajectories of `start()`, by their probabilities."""
    batch, chances = trajectories(start())
    weights = chances * batch["log_probs"].sum(1).exp()
    objective = PolicyGradient(config)

    def loss(params: Params) -> Tensor:
        def forward(inputs: Tensor) -> Tensor:
            return inputs @ params["head.weight"].T + params["head.bias"]

        losses = [objective(forward, batch.map(lambda tensor, i=i: tensor[i : i + 1]))[0] for i in range(len(weights))]
        return (weights * torch.stack(losses)).sum()

    return loss


def test_the_probabilities_of_all_trajectories_are_one() -> None:
    batch, chances = trajectories(start())
    assert (chances * batch["log_probs"].sum(1).exp()).sum().item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_expectation_of_every_derivative_is_that_of_the_expected_loss(order: int) -> None:
    actual, exact = derivatives(expected(settings()), order), derivatives(exact_loss, order)
    torch.testing.assert_close(actual, exact, rtol=0, atol=1e-13)
    assert order == 0 or exact.abs().max() > 0.01


@pytest.mark.parametrize("dependence", [0.0, 0.5])
def test_less_dependence_biases_the_second_derivative_alone(dependence: float) -> None:
    loss = expected(settings(dependence=dependence))
    torch.testing.assert_close(derivatives(loss, 1), derivatives(exact_loss, 1), rtol=0, atol=1e-13)
    assert (derivatives(loss, 2) - derivatives(exact_loss, 2)).abs().max() > 0.005


def test_generalised_advantages_are_a_function_of_the_rewards_alone() -> None:
    batch, _ = trajectories(start())
    rewards = batch["rewards"]
    loss = PolicyGradient(settings(discount=0.5, gae=0.4))
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    value, metrics = loss(lambda inputs: inputs @ weight.T, batch)
    recorded = (batch.inputs @ weight.T).log_softmax(-1).gather(-1, batch["actions"][..., None])[..., 0]
    batch = Batch(**{**batch, "log_probs": recorded.detach()})
    (grad,) = torch.autograd.grad(loss(lambda inputs: inputs @ weight.T, batch)[0], weight)
    sums = torch.stack([sum(0.2 ** (u - t) * rewards[:, u] for u in range(t, HORIZON)) for t in range(HORIZON)], 1)
    (by_hand,) = torch.autograd.grad(-(recorded * sums).mean(), weight)
    torch.testing.assert_close(grad, by_hand, rtol=1e-12, atol=1e-14)
    assert metrics["return"].item() == pytest.approx(rewards.sum(1).mean().item())
    assert value.requires_grad


def exact_meta_gradient(order: int) -> Tensor:
    """Of the loss after an inner step along the gradient of the expected loss."""
    meta = {name: tensor.requires_grad_() for name, tensor in start().items()}
    grads = torch.autograd.grad(exact_loss(meta), list(meta.values()), create_graph=order == 2)
    moved = {name: tensor - INNER_RATE * grad for (name, tensor), grad in zip(meta.items(), grads, strict=True)}
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(exact_loss(moved), list(meta.values()))])


def estimates(estimator: Estimator, inner: PolicyGradientConfig, tasks: int = 48, shots: int = 4000) -> Tensor:
    """[T, parameters] meta-gradients of tasks that differ in their seeds alone."""
    engine = Engine(learner_of(inner), estimator, term(settings()), EngineConfig(strategy="loop"))
    tasks_of = episodes(tasks, shots, shots)
    return torch.stack([flat(engine.update(start(), tasks_of.select([task]))[0].grad) for task in range(tasks)])


def z_scores(samples: Tensor) -> Tensor:
    """Distance of the mean from the exact meta-gradient of second order, in standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    return ((samples.mean(0) - exact_meta_gradient(2)) / error).abs()


def test_the_meta_gradient_with_dice_is_unbiased() -> None:
    assert z_scores(estimates(EXACT, settings())).max() < 3


@pytest.mark.parametrize(("estimator", "dependence"), [(FIRST_ORDER, 1.0), (EXACT, 0.0)])
def test_meta_gradients_without_the_dependence_of_trajectories_are_biased(
    estimator: Estimator, dependence: float
) -> None:
    assert z_scores(estimates(estimator, settings(dependence=dependence))).max() > 10


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("dependence", [1.0, 0.3])
@pytest.mark.parametrize("full", [False, True])
def test_the_meta_gradient_on_fixed_trajectories_is_that_of_central_differences(
    steps: int, dependence: float, full: bool
) -> None:
    inner = PolicyGradientConfig(dependence=dependence, gae=0.9) if full else settings(dependence=dependence)
    learner, terms = learner_of(inner, steps), term(inner)
    tasks = episodes(3, 5, 4)
    assert tasks.supply is not None
    replayed = replace(tasks, supply=Recording(tasks.supply))
    Engine(learner, EXACT, terms, EngineConfig(strategy="vmap")).update(start(), replayed)
    ops = EagerOps(learner, "vmap", terms)

    def loss(params: Params) -> Tensor:
        return ops.score(params, ops.adapt(params, replayed), replayed).metrics["loss"].sum()

    for strategy in ("loop", "vmap"):
        engine = Engine(learner, EXACT, terms, EngineConfig.model_validate({"strategy": strategy, "chunk": 3}))
        live = flat(engine.update(start(), tasks)[0].grad)
        torch.testing.assert_close(live, central_differences(loss), rtol=1e-7, atol=1e-9)
    again = Engine(learner, EXACT, terms, EngineConfig(strategy="vmap")).update(start(), replayed)[0]
    assert torch.equal(flat(again.grad), live)


def central_differences(loss: Callable[[Params], Tensor], step: float = 1e-5, at: Params | None = None) -> Tensor:
    origin = flat(at or start())
    slopes = []
    for direction in torch.eye(len(origin), dtype=torch.float64):
        above, below = (loss(unflat(origin + sign * step * direction, start())) for sign in (1, -1))
        slopes.append((above - below) / (2 * step))
    return torch.stack(slopes)
