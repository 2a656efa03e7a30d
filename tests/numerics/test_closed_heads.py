"""Neighbours' labels, full-context embeddings and ridge heads: against numpy, torch.nn and central differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.config import NeighbourConfig, RidgeConfig
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.context import BACKWARD, FORWARD, READ, FullContext
from distmeta.methods.learners.neighbours import OTHER_WEIGHT, NeighbourLearner
from distmeta.methods.learners.ridge import BIAS, LOG_LAMBDA, SCALE, RidgeLearner, ridge
from distmeta.models.base import Backbone, Frame

from ..adapting import adapt, predict
from .problems import (
    EXACT,
    FIRST_ORDER,
    VMAP,
    WAY,
    classification,
    conv4,
    mean_gradient,
    mlp,
    perturbed,
    regression,
    single_tasks,
    update,
    worst_relative_error,
)

Array = npt.NDArray[np.float64]
Problem = tuple[Backbone, Episode]
NETWORKS: dict[str, Callable[[], Problem]] = {
    "mlp": lambda: (mlp(), classification(6, shots=3)),
    "conv4": lambda: (conv4(filters=8), classification(1, 16, 16, shots=3)),
}
SIMILARITIES: dict[str, Callable[[Array, Array], float]] = {
    "cosine": lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    "euclidean": lambda a, b: -(float(np.linalg.norm(a - b)) ** 2),
}


@pytest.fixture(params=NETWORKS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return NETWORKS[request.param]()


def neighbours(backbone: Backbone, **settings: Any) -> NeighbourLearner:
    return NeighbourLearner(NeighbourConfig.model_validate(settings), backbone, WAY)


def features(backbone: Backbone, meta: Params, task: Episode) -> tuple[Array, Array]:
    """Features of the support and of the query set."""
    both = (backbone.features(meta, task[role].inputs, Frame()) for role in (SUPPORT, QUERY))
    support, query = (found.detach().numpy() for found in both)
    return support, query


def outputs(learner: Learner, meta: Params, task: Episode) -> Tensor:
    return predict(learner, meta, adapt(learner, meta, task.support), task.support, task.query.inputs)


def labels(task: Episode) -> list[int]:
    assert task.support.targets is not None
    return [int(label) for label in task.support.targets]


def slopes(loss: Callable[[Params], float], meta: Params, direction: Params, size: float = 1e-5) -> float:
    """The central difference of a loss along a direction."""
    ahead, behind = ({n: t + sign * size * direction[n] for n, t in meta.items()} for sign in (1, -1))
    return (loss(ahead) - loss(behind)) / (2 * size)


def check_gradient(learner: Learner, meta: Params, episodes: Episode, tolerance: float = 1e-7) -> None:
    """Compare the outer gradient with central differences along random directions of each meta-parameter."""
    tasks = episodes.num_tasks

    def loss(meta: Params) -> float:
        return update(learner, EXACT, meta, episodes).metrics["loss"] / tasks

    exact, first = (mean_gradient(learner, estimator, meta, episodes, VMAP) for estimator in (EXACT, FIRST_ORDER))
    assert worst_relative_error(first, exact) < 1e-11  # there is no inner step whose derivative could be left out
    rng = torch.Generator().manual_seed(0)
    for name, grad in exact.items():
        direction = {each: torch.zeros_like(tensor) for each, tensor in meta.items()}
        direction[name] = torch.randn(grad.shape, generator=rng, dtype=torch.float64)
        expected = slopes(loss, meta, direction)
        assert float((grad * direction[name]).sum()) == pytest.approx(expected, rel=tolerance, abs=1e-8), name


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("nearest", [None, 1, 4, 100])
def test_labels_are_weighted_by_similarity(
    similarity: str, scale: float, nearest: int | None, problem: Problem
) -> None:
    backbone, episodes = problem
    learner = neighbours(backbone, similarity=similarity, scale=scale, neighbours=nearest)
    meta = perturbed(learner.init(0))
    assert not any(name.startswith("head") for name in meta)
    for task in single_tasks(episodes):
        support, query = features(backbone, meta, task)
        expected = np.zeros((len(query), WAY))
        for row, x in enumerate(query):
            similar = [SIMILARITIES[similarity](x, example) for example in support]
            ranked = sorted(range(len(support)), key=lambda i, similar=similar: -similar[i])
            counted = ranked if nearest is None else ranked[:nearest]
            for i, label in enumerate(labels(task)):
                expected[row, label] += np.exp(scale * similar[i]) * (1 if i in counted else OTHER_WEIGHT)
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(outputs(learner, meta, task), np.log(expected), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [{}, {"similarity": "euclidean", "scale": 0.3}, {"similarity": "euclidean", "neighbours": 4}, {"context_steps": 2}],
    ids=["cosine", "euclidean", "nearest", "context"],
)
def test_the_gradient_of_weighted_labels_is_that_of_central_differences(settings: dict[str, Any]) -> None:
    backbone, episodes = NETWORKS["mlp"]()
    learner = neighbours(backbone, **settings)
    check_gradient(learner, perturbed(learner.init(0)), episodes)


def test_predictions_of_nearest_neighbours_are_those_of_counting_them() -> None:
    backbone, episodes = NETWORKS["mlp"]()
    learner = neighbours(backbone, similarity="euclidean", scale=1e-9, neighbours=1)
    meta = perturbed(learner.init(0))
    for task in single_tasks(episodes):
        support, query = features(backbone, meta, task)
        nearest = [min(range(len(support)), key=lambda i, x=x: np.linalg.norm(support[i] - x)) for x in query]
        assert outputs(learner, meta, task).argmax(1).tolist() == [labels(task)[i] for i in nearest]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_features_of_zeros_or_far_apart_and_missing_classes_have_finite_losses_and_gradients(similarity: str) -> None:
    backbone, episodes = mlp(), classification(6)
    learner = neighbours(backbone, similarity=similarity, neighbours=2)
    meta = {name: tensor.float() for name, tensor in perturbed(learner.init(0)).items()}
    episodes = episodes.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    dead = {name: torch.full_like(tensor, -1e3) if "bias" in name else tensor for name, tensor in meta.items()}
    far = {name: 1e3 * tensor for name, tensor in meta.items()}
    only_one = Batch(episodes.support.inputs, torch.zeros_like(episodes.support["targets"]))
    for case, tasks in ((dead, episodes), (far, episodes), (meta, Episode({**episodes.roles, SUPPORT: only_one}))):
        total = update(learner, EXACT, case, tasks)
        assert np.isfinite(total.metrics["loss"])
        assert all(bool(grad.isfinite().all()) for grad in total.grad.values())


def loaded(cell: nn.Module, params: Params, name: str, suffix: str) -> None:
    """Give an LSTM of torch's the weights of one of ours, whose bias is the sum of its two."""
    with torch.no_grad():
        cell.get_parameter(f"weight_ih{suffix}").copy_(params[f"{name}.input"])
        cell.get_parameter(f"weight_hh{suffix}").copy_(params[f"{name}.hidden"])
        cell.get_parameter(f"bias_ih{suffix}").copy_(params[f"{name}.bias"])
        cell.get_parameter(f"bias_hh{suffix}").zero_()


def test_full_context_embeddings_are_those_of_torch_lstms() -> None:
    size, steps = 5, 3
    context = FullContext(size, steps)
    params = perturbed(context.init(0, torch.float64))
    rng = torch.Generator().manual_seed(1)
    support, query = (torch.randn(count, size, generator=rng, dtype=torch.float64) for count in (6, 4))
    both = nn.LSTM(size, size, bidirectional=True).double()
    loaded(both, params, FORWARD, "_l0")
    loaded(both, params, BACKWARD, "_l0_reverse")
    read, _ = both(support[:, None])
    expected = support + read[:, 0, :size] + read[:, 0, size:]
    embedded = context.of_support(params, support)
    torch.testing.assert_close(embedded, expected)
    cell = nn.LSTMCell(size, size).double()
    cell.weight_hh = nn.Parameter(torch.empty(4 * size, 2 * size, dtype=torch.float64))
    loaded(cell, params, READ, "")
    for row, x in enumerate(query):
        hidden, state, seen = (torch.zeros(size, dtype=torch.float64) for _ in range(3))
        for _ in range(steps):
            joined = torch.cat((hidden, seen))
            gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ joined
            i, f, g, o = gates.split(size)
            state = f.sigmoid() * state + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * state.tanh() + x
            attention = F.softmax(torch.stack([hidden @ example for example in expected]), 0)
            seen = sum((a * example for a, example in zip(attention, expected, strict=True)), torch.zeros(size))
        torch.testing.assert_close(context.of_queries(params, query, embedded)[row], hidden)


def ridge_learner(backbone: Backbone, outputs: int = WAY, **settings: Any) -> RidgeLearner:
    return RidgeLearner(RidgeConfig.model_validate(settings), backbone, outputs)


def expected_ridge(meta: Params, support: Array, fitted: Array, query: Array, *, intercept: bool) -> Array:
    ones = [np.ones((len(rows), int(intercept))) for rows in (support, query)]
    x, z = np.hstack((support, ones[0])), np.hstack((query, ones[1]))
    weight = np.linalg.solve(x.T @ x + np.exp(float(meta[LOG_LAMBDA])) * np.eye(x.shape[1]), x.T @ fitted)
    return float(meta[SCALE]) * z @ weight + float(meta[BIAS])


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shots", [1, 6], ids=["fewer examples than features", "more"])
def test_a_ridge_head_is_the_solution_of_the_normal_equations(shots: int, intercept: bool) -> None:
    backbone, episodes = mlp(), classification(6, shots=shots)
    learner = ridge_learner(backbone, regularisation=0.2, scale=3.0, intercept=intercept)
    assert {LOG_LAMBDA, SCALE, BIAS} <= set(learner.init(0))
    assert float(learner.init(0)[LOG_LAMBDA].exp()) == pytest.approx(0.2)
    meta = perturbed(learner.init(0))
    for task in single_tasks(episodes):
        support, query = features(backbone, meta, task)
        expected = expected_ridge(meta, support, np.eye(WAY)[labels(task)], query, intercept=intercept)
        np.testing.assert_allclose(outputs(learner, meta, task), expected, rtol=1e-9, atol=1e-10)
    check_gradient(learner, meta, episodes, tolerance=1e-6)


@pytest.mark.parametrize("count", [4, 20])
def test_a_ridge_head_fits_numbers(count: int) -> None:
    backbone, episodes = mlp(), regression(6, 2, count=count)
    learner = ridge_learner(backbone, 2, regularisation=0.5)
    meta = perturbed(learner.init(0))
    for task in single_tasks(episodes):
        support, query = features(backbone, meta, task)
        expected = expected_ridge(meta, support, task.support["targets"].numpy(), query, intercept=True)
        np.testing.assert_allclose(outputs(learner, meta, task), expected, rtol=1e-9, atol=1e-10)
    check_gradient(learner, meta, episodes, tolerance=1e-6)
    assert bool(mean_gradient(learner, EXACT, meta, episodes)[BIAS].abs() > 1e-3)


def test_fixed_numbers_of_a_ridge_head_are_no_meta_parameters() -> None:
    backbone, episodes = mlp(), classification(6)
    learner = ridge_learner(backbone, regularisation=0.2, scale=3.0, learned=False)
    meta = perturbed(backbone.init(0))
    assert set(learner.init(0)) == set(backbone.groups()["body"])
    numbers = {LOG_LAMBDA: torch.tensor(0.2).log(), SCALE: torch.tensor(3.0), BIAS: torch.tensor(0.0)}
    for task in single_tasks(episodes):
        support, query = features(backbone, meta, task)
        expected = expected_ridge(numbers, support, np.eye(WAY)[labels(task)], query, intercept=True)
        np.testing.assert_allclose(outputs(learner, meta, task), expected, rtol=1e-6)


SIZES = [(4, 9), (9, 4), (5, 5)]


def drawn(n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n)
    x, y = (torch.randn(n, size, generator=rng, dtype=torch.float64) for size in (d, 3))
    return x, y, torch.tensor(0.3, dtype=torch.float64)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_both_systems_of_equations_have_one_solution(n: int, d: int) -> None:
    tensors = drawn(n, d)
    x, y, regularisation = (tensor.numpy() for tensor in tensors)
    primal = np.linalg.solve(x.T @ x + regularisation * np.eye(d), x.T @ y)
    dual = x.T @ np.linalg.solve(x @ x.T + regularisation * np.eye(n), y)
    np.testing.assert_allclose(primal, dual, rtol=1e-10)
    np.testing.assert_allclose(ridge(*tensors), primal, rtol=1e-10)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_the_solution_has_exact_first_and_second_derivatives(n: int, d: int) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in drawn(n, d))
    assert torch.autograd.gradcheck(ridge, inputs)
    assert torch.autograd.gradgradcheck(ridge, inputs)


def test_features_that_nearly_depend_on_each_other_keep_their_digits() -> None:
    """The condition number of x' x is 1e14: a Cholesky decomposition of it in float64 leaves three digits."""
    x, y, _ = drawn(9, 4)
    x[:, 3] = x[:, 2] + 1e-6 * x[:, 3]
    augmented = np.vstack((x, 1e-7 * np.eye(4)))
    expected = np.linalg.lstsq(augmented, np.vstack((y, np.zeros((4, 3)))), rcond=None)[0]
    found = ridge(x, y, torch.tensor(1e-14, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_features_that_are_not_finite_give_weights_that_are_not() -> None:
    for n, d in SIZES:
        x, y, regularisation = drawn(n, d)
        x[0, 0] = torch.nan
        assert bool(ridge(x, y, regularisation).isnan().any())
