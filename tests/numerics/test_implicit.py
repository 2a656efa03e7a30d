"""Implicit gradients: against long unrolls, closed forms and an independent conjugate gradient; Newton-CG steps.

Ridge regression: with L(phi) = phi' H phi / 2 - c' phi for each output, phi = (weights, bias), the proximal problem has
the solution and the meta-gradient

    phi* = (H + l2sp I)^-1 (c + l2sp theta)        d L_query(phi*) / d theta = l2sp (H + l2sp I)^-1 grad L_query(phi*)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distmeta.config import EngineConfig, ImplicitConfig, NewtonConfig, Phase
from distmeta.core.types import Batch, Params
from distmeta.methods.conjugate_gradient import conjugate_gradient, joined, split
from distmeta.methods.estimators.implicit import RESIDUAL, Implicit
from distmeta.methods.learners.newton import NewtonLearner
from distmeta.methods.objectives import mse
from distmeta.methods.terms import OuterTerm
from distmeta.models.base import HEAD, Backbone
from distmeta.models.module import ModuleBackbone
from distmeta.models.network import Network

from ..adapting import walk
from .problems import (
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    WAY,
    classification,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    quadratic,
    regression,
    relative_error,
    single_tasks,
    update,
)
from .test_closed_form import INPUTS, OUTPUTS, query_gradient, stacked, unstacked

FLAT = EngineConfig(strategy="vmap", memory="flat")
SOLVED = Implicit(ImplicitConfig(steps=200, tolerance=1e-13))


def smooth_net(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Solutions of a network with ReLU may lie on kinks, where gradients jump and no gradient method converges."""
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, outputs))


def smooth() -> Backbone:
    return ModuleBackbone(smooth_net, (6,), {HEAD: WAY}, torch.float64, limits={})


def newton(backbone: Backbone, objective: str = "cross_entropy", **settings: Any) -> NewtonLearner:
    return NewtonLearner(NewtonConfig.model_validate(settings), backbone, objective)


@pytest.mark.parametrize(
    "groups", [pytest.param("all", marks=pytest.mark.slow), "head", pytest.param("0", marks=pytest.mark.slow)]
)
def test_the_gradient_is_that_of_a_long_unroll(groups: str) -> None:
    """Also where adaptation moves only the head or the first layer, and what it does not move shapes the problem."""
    backbone, episodes = smooth(), classification(6)
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(groups=(groups,), lr=0.3, steps=60, l2sp=2.0))
    exact = mean_gradient(learner, EXACT, meta, episodes, FLAT)
    assert relative_error(mean_gradient(learner, SOLVED, meta, episodes), exact) < 1e-9
    assert relative_error(mean_gradient(learner, FIRST_ORDER, meta, episodes), exact) > 1e-2


@pytest.mark.slow
def test_the_gradient_is_that_of_an_unroll_of_1500_steps() -> None:
    backbone, episodes = smooth(), classification(6)
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(lr=0.3, steps=1500, l2sp=0.5))
    exact = mean_gradient(learner, EXACT, meta, episodes, FLAT)
    assert relative_error(mean_gradient(learner, SOLVED, meta, episodes), exact) < 1e-6
    assert relative_error(mean_gradient(learner, FIRST_ORDER, meta, episodes), exact) > 0.1


@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("solver", ["gradient", "newton_cg"])
def test_ridge_regression_has_the_closed_form(solver: str, damping: float, engine: EngineConfig) -> None:
    backbone, episodes, l2sp = mlp(INPUTS, OUTPUTS, ()), regression(INPUTS, OUTPUTS, tasks=3), 0.7
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(lr=0.2, steps=200, l2sp=l2sp), objective="mse")
    if solver == "newton_cg":
        learner = newton(backbone, "mse", proximal=l2sp, steps=2, cg_steps=10, lr=0.2)
    theta, eye, expected = stacked(meta), torch.eye(INPUTS + 1, dtype=torch.float64), []
    for task in single_tasks(episodes):
        hessian, linear = quadratic(task.support)
        solution = torch.linalg.solve(hessian + l2sp * eye, linear + l2sp * theta)
        matrix = (1 + damping) * eye + hessian / l2sp
        expected.append(unstacked(torch.linalg.solve(matrix, query_gradient(solution, task))))
    estimator = Implicit(ImplicitConfig(steps=12, tolerance=1e-14, damping=damping))
    signal = mean_gradient(learner, estimator, meta, episodes, engine)
    assert relative_error(signal, mean_over_tasks(expected)) < 1e-10


def test_terms_that_see_the_meta_parameters_keep_their_direct_gradient() -> None:
    backbone, episodes = mlp(INPUTS, OUTPUTS, ()), regression(INPUTS, OUTPUTS, tasks=2)
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(lr=0.2, steps=10, l2sp=0.7), objective="mse")
    direct = OuterTerm("support", mse, weight=0.3, at="meta")
    with_direct = mean_gradient(learner, SOLVED, meta, episodes, terms=(OuterTerm("query", mse), direct))
    plain = mean_gradient(learner, SOLVED, meta, episodes)
    expected = mean_over_tasks(
        [unstacked(0.3 * (h @ stacked(meta) - c)) for h, c in (quadratic(t.support) for t in single_tasks(episodes))]
    )
    added = {name: with_direct[name] - plain[name] for name in meta}
    assert relative_error(added, expected) < 1e-12


def test_a_task_has_the_same_gradient_alone_and_among_others_that_are_solved_sooner() -> None:
    backbone, episodes = smooth(), classification(6, tasks=4)
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, Phase(lr=0.2, steps=20, l2sp=1.0))
    estimator = Implicit(ImplicitConfig(steps=8, tolerance=0.05))
    alone = [update(learner, estimator, meta, episodes.map(lambda tensor, t=t: tensor[t : t + 1])) for t in range(4)]
    residuals = [each.metrics[RESIDUAL] for each in alone]
    together = update(learner, estimator, meta, episodes)
    summed = {name: sum((each.grad[name] for each in alone), torch.zeros(())) for name in meta}
    assert relative_error(together.grad, summed) < 1e-12
    assert together.metrics[RESIDUAL] == pytest.approx(sum(residuals), rel=1e-12)
    assert all(0 < residual <= 0.05 for residual in residuals)


def systems(size: int = 9, count: int = 3) -> tuple[Tensor, Tensor]:
    """Symmetric positive definite matrices [T, P, P] of growing condition, and right-hand sides [T, P]."""
    rng = torch.Generator().manual_seed(0)
    bases = torch.linalg.qr(torch.randn(count, size, size, generator=rng, dtype=torch.float64)).Q
    spectra = torch.stack([torch.linspace(1.0, 10.0**t, size, dtype=torch.float64) for t in range(count)])
    return bases @ (spectra[..., None] * bases.mT), torch.randn(count, size, generator=rng, dtype=torch.float64)


def numpy_cg(matrix: Any, right: Any, steps: int) -> tuple[Any, float]:
    """The textbook's loop (Nocedal & Wright 2006, algorithm 5.2), and the true relative residual."""
    x, r = np.zeros_like(right), -right
    p = -r
    for _ in range(steps):
        alpha = (r @ r) / (p @ matrix @ p)
        x, r, before = x + alpha * p, r + alpha * matrix @ p, r @ r
        p = -r + (r @ r) / before * p
    return x, float(np.linalg.norm(matrix @ x - right) / np.linalg.norm(right))


def test_conjugate_gradient_is_that_of_the_textbook_for_each_system() -> None:
    matrices, right = systems()
    before = torch.ones(3, dtype=torch.float64)
    for steps in (1, 2, 4, 7):
        solution = conjugate_gradient(lambda v: (matrices @ v[..., None])[..., 0], right, steps=steps)
        for t in range(1, 3):  # the first matrix is the identity: solved by the first step
            x, residual = numpy_cg(matrices[t].numpy(), right[t].numpy(), steps)
            np.testing.assert_allclose(solution.x[t].numpy(), x, rtol=1e-9, atol=1e-12)
            assert float(solution.residual[t]) == pytest.approx(residual, rel=1e-6)
            assert float(solution.residual[t]) < float(before[t])
        torch.testing.assert_close(solution.x[0], right[0])
        before = solution.residual


def test_each_system_stops_at_its_tolerance_and_its_neighbours_do_not_matter() -> None:
    matrices, right = systems()
    diagonals = matrices.diagonal(dim1=-2, dim2=-1)  # products entry by entry have the same bits in any company
    together = conjugate_gradient(lambda v: diagonals * v, right, steps=9, tolerance=0.05)
    for t in range(3):
        alone = conjugate_gradient(lambda v, t=t: diagonals[t] * v, right[t], steps=9, tolerance=0.05)
        assert torch.equal(together.x[t], alone.x)
        assert torch.equal(together.residual[t], alone.residual)
        counts = [conjugate_gradient(lambda v, t=t: diagonals[t] * v, right[t], steps=k) for k in range(1, 10)]
        enough = next(each for each in counts if float(each.residual) <= 0.05)
        assert torch.equal(alone.x, enough.x)


def test_systems_without_positive_curvature_or_a_right_hand_side_stay_finite() -> None:
    right = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 0.0], [3.0, 1.0]])
    diagonals = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 1.0], [1.0, -2.0]])
    solution = conjugate_gradient(lambda v: diagonals * v, right, steps=4)
    assert solution.x.isfinite().all() and solution.residual.isfinite().all()
    assert torch.equal(solution.x[0], right[0])  # steepest descent
    assert torch.equal(solution.x[1], right[1])
    assert torch.equal(solution.x[2], right[2])
    assert float(solution.x[3] @ right[3]) > 0


def test_joined_tensors_are_split_again() -> None:
    tensors = [torch.randn(2, 3, 4), torch.randn(2), torch.randn(2, 5)]
    vector = joined(tensors, 1)
    assert vector.shape == (2, 18)
    assert all(map(torch.equal, split(vector, tensors, 1), tensors))


def proximal_slope(learner: NewtonLearner, meta: Params, moved: Params, support: Batch, l2sp: float) -> float:
    """|grad F| at a state, by autograd alone."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in moved.items()}
    outputs = Network(learner.backbone)(leaves, support.inputs)
    loss = nn.functional.cross_entropy(outputs, support.targets)  # type: ignore[arg-type]
    loss = loss + 0.5 * l2sp * sum((leaves[name] - meta[name]).square().sum() for name in meta)
    return float(joined(list(torch.autograd.grad(loss, list(leaves.values())))).norm())


def test_newton_steps_solve_the_problem_far_better_than_gradient_steps() -> None:
    backbone, l2sp = smooth(), 1.0
    meta = perturbed(backbone.init(0))
    learner = newton(backbone, proximal=l2sp, steps=5)
    for task in single_tasks(classification(6)):
        descended = walk(gradient(backbone, Phase(lr=0.1, steps=16, l2sp=l2sp)), meta, task.support)[-1]
        states = walk(learner, meta, task.support)
        slopes = [proximal_slope(learner, meta, state.moved, task.support, l2sp) for state in states]
        assert len(states) == 1 + 5 + 1
        assert slopes[5] < 1e-3 * proximal_slope(learner, meta, descended.moved, task.support, l2sp)
        assert slopes[6] < slopes[5]


def test_a_newton_step_of_a_quadratic_is_the_solution() -> None:
    backbone, l2sp = mlp(INPUTS, OUTPUTS, ()), 0.3
    meta = perturbed(backbone.init(0))
    learner = newton(backbone, "mse", proximal=l2sp, steps=1, cg_steps=10)
    for task in single_tasks(regression(INPUTS, OUTPUTS, tasks=2)):
        hessian, linear = quadratic(task.support)
        matrix = hessian + l2sp * torch.eye(INPUTS + 1, dtype=torch.float64)
        solution = torch.linalg.solve(matrix, linear + l2sp * stacked(meta))
        torch.testing.assert_close(stacked(walk(learner, meta, task.support)[1].moved), solution)


def test_the_step_size_is_the_best_of_those_that_are_tried() -> None:
    learner = newton(smooth(), step_sizes=3)
    for values, size in (
        ([1.0, 2.0, 0.5, 0.9], 0.5),
        ([1.0, 2.0, 3.0, 4.0], 0.0),
        ([1.0, torch.nan, torch.inf, 0.9], 0.25),
        ([1.0, 0.5, 0.5, 0.5], 1.0),
    ):
        assert float(learner._best(torch.tensor(values))) == size


def test_newton_steps_can_be_differentiated_through() -> None:
    """Against central differences along one direction: the step size is the same on both sides."""
    backbone, episodes = smooth(), classification(6, tasks=1)
    meta = perturbed(backbone.init(0))
    learner = newton(backbone, proximal=2.0, steps=1, cg_steps=3, lr=0.1)
    grads = mean_gradient(learner, EXACT, meta, episodes)
    direction = {name: torch.ones_like(tensor) for name, tensor in meta.items()}
    ends = [
        update(learner, FIRST_ORDER, {n: t + e * direction[n] for n, t in meta.items()}, episodes).metrics["loss"]
        for e in (1e-5, -1e-5)
    ]
    slope = sum(float((grads[name] * direction[name]).sum()) for name in grads)
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)
