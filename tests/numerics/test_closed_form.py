"""Linear regression, where adaptation and every outer signal have a closed form.

    loss(theta)   = theta' H theta / 2 - c' theta + const        for each output, theta = (weights, bias)
    fast_{k+1}    = fast_k - lr (H fast_k - c + l2sp (fast_k - theta))

so that, with the Jacobian J_k of fast_k, MAML's signal is J_K' g_query(fast_K), FOMAML's g_query(fast_K), Reptile's
theta - fast_K, and the gradient of one step's rates is minus the product of both gradients.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distmeta.config import Phase
from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.objectives import mse
from distmeta.methods.terms import OuterTerm

from .problems import (
    DISPLACEMENT,
    EXACT,
    FIRST_ORDER,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    quadratic,
    regression,
    relative_error,
    single_tasks,
)

INPUTS, OUTPUTS, LR = 4, 2, 0.1


def stacked(params: Params, prefix: str = "") -> Tensor:
    """Weights and bias as one [D + 1, O]."""
    return torch.cat((params[prefix + "head.weight"].T, params[prefix + "head.bias"][None]))


def unstacked(theta: Tensor, prefix: str = "") -> Params:
    return {prefix + "head.weight": theta[:-1].T, prefix + "head.bias": theta[-1]}


def adapted(theta: Tensor, task: Episode, steps: int, l2sp: float) -> tuple[Tensor, Tensor]:
    """fast_K and its Jacobian (which is symmetric, and the same for each output)."""
    hessian, linear = quadratic(task.support)
    eye = torch.eye(len(theta), dtype=theta.dtype)
    fast, jacobian = theta, eye
    for _ in range(steps):
        fast = fast - LR * (hessian @ fast - linear + l2sp * (fast - theta))
        jacobian = jacobian - LR * (hessian @ jacobian + l2sp * (jacobian - eye))
    return fast, jacobian


def query_gradient(fast: Tensor, task: Episode) -> Tensor:
    hessian, linear = quadratic(task.query)
    return hessian @ fast - linear


@pytest.fixture
def meta() -> Params:
    return perturbed(mlp(INPUTS, OUTPUTS, ()).init(0))


@pytest.fixture
def episodes() -> Episode:
    return regression(INPUTS, OUTPUTS, tasks=3)


@pytest.mark.parametrize("l2sp", [0.0, 0.7])
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("estimator", [EXACT, FIRST_ORDER, DISPLACEMENT], ids=["maml", "fomaml", "reptile"])
def test_the_outer_signal_is_the_closed_form(
    estimator: Estimator, steps: int, l2sp: float, meta: Params, episodes: Episode
) -> None:
    learner = gradient(mlp(INPUTS, OUTPUTS, ()), Phase(lr=LR, steps=steps, l2sp=l2sp), objective="mse")
    theta, signals = stacked(meta), []
    for task in single_tasks(episodes):
        fast, jacobian = adapted(theta, task, steps, l2sp)
        signals.append(
            {
                EXACT: jacobian.T @ query_gradient(fast, task),
                FIRST_ORDER: query_gradient(fast, task),
                DISPLACEMENT: theta - fast,
            }[estimator]
        )
    signal = mean_gradient(learner, estimator, meta, episodes)
    if steps == 0 and estimator is DISPLACEMENT:
        assert all(bool((tensor == 0).all()) for tensor in signal.values())
    else:
        assert relative_error(signal, mean_over_tasks([unstacked(each) for each in signals])) < 1e-13


def test_learned_rates_have_the_closed_form_gradient(meta: Params, episodes: Episode) -> None:
    learner = gradient(mlp(INPUTS, OUTPUTS, ()), Phase(lr=LR), objective="mse", learned_lr=True)
    theta, signals = stacked(meta), []
    meta |= {f"inner_lr.{name}": 0.05 + 0.1 * torch.rand_like(tensor) for name, tensor in meta.items()}
    for task in single_tasks(episodes):
        hessian, linear = quadratic(task.support)
        support_gradient, rates = hessian @ theta - linear, stacked(meta, "inner_lr.")
        outer = query_gradient(theta - rates * support_gradient, task)
        signals.append(unstacked(outer - hessian @ (rates * outer)) | unstacked(-support_gradient * outer, "inner_lr."))
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes), mean_over_tasks(signals)) < 1e-13


def test_terms_of_the_outer_loss_add_up(meta: Params, episodes: Episode) -> None:
    """An adapted term of weight 2, and a joint term of weight 0.3 that scores the meta-parameters."""
    learner = gradient(mlp(INPUTS, OUTPUTS, ()), Phase(lr=LR), objective="mse")
    both = (OuterTerm("query", mse, weight=2.0), OuterTerm("support", mse, weight=0.3, at="meta"))
    theta, signals = stacked(meta), []
    for task in single_tasks(episodes):
        fast, jacobian = adapted(theta, task, 1, 0.0)
        hessian, linear = quadratic(task.support)
        signals.append(unstacked(2 * jacobian.T @ query_gradient(fast, task) + 0.3 * (hessian @ theta - linear)))
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes, terms=both), mean_over_tasks(signals)) < 1e-13
