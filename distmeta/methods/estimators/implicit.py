"""Implicit meta-gradient: iMAML (Rajeswaran, Finn, Kakade & Levine 2019, arXiv 1909.04630).

The inner steps solve a proximal problem for each task, and its solution is differentiated as such:

    fast   = argmin_phi  L_support(phi) + l2sp / 2 * |phi - meta|^2
    d      = (I + H / l2sp)^-1  grad L_query(fast)          H = Hessian of L_support at fast

so the outer gradient depends on where adaptation ends, not on the way there, and memory does not grow with the number
of inner steps. d is computed by conjugate gradient for each task. A product with H + l2sp I is one with the transposed
Jacobian of an inner step `phi - lr (grad L_support(phi) + l2sp (phi - meta))`:

    J'v = v - lr (H + l2sp I) v        (I + H / l2sp) v = (v - J'v) / (lr * l2sp)

The result is pulled back through the same step once more, which also gives meta-parameters that adaptation does not
move (the body, where the head alone adapts) their implicit gradient, beside the direct one that terms give them.

Damping: the system that is solved is ((1 + damping) I + H / l2sp) d = grad. Deviation from the authors' code
(`matrix_evaluator` in learner_model.py): it solves ((1 + damping) I + H / (l2sp + 10)) d = grad, so that curvature
counts less there. With damping, d is not the exact gradient, whose size and direction both change.
Others: the tolerance is relative to each task's own gradient (theirs: |residual|^2 < 1e-10); where H + l2sp I turns out
not to be positive definite, a task's solver stops (theirs goes on).
"""

from __future__ import annotations

from torch import Tensor
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from distmeta.config import ImplicitConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.conjugate_gradient import conjugate_gradient, joined, split
from distmeta.methods.estimators.base import (
    Cotangent,
    Estimate,
    Estimator,
    Moment,
    State,
    TaskOps,
    add_cotangents,
    add_params,
)

RESIDUAL = "cg_residual"
"""Metric: the solver's residual divided by the norm of the task's query gradient."""


class Implicit(Estimator):
    """The gradient of the summed outer losses at the solutions of proximal inner problems."""

    def __init__(self, config: ImplicitConfig) -> None:
        self._config = config

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        state: State = None
        for visit in ops.walk(meta, episodes):
            state = visit.state
        slopes = ops.score_grad(meta, state, episodes)
        solve = _Solver(ops, meta, episodes, state)
        by_step, cotangent, residual = solve(slopes.by_state, self._config)
        start = ops.start(meta, episodes)
        assert start.pullback is not None
        by_start, _ = start.pullback(cotangent)
        grad = add_params(add_params(slopes.by_meta, by_step), by_start)
        ordered = {name: grad[name] for name in meta if name in grad}
        metrics = {**slopes.scores.metrics, RESIDUAL: residual}
        return Estimate(ordered, metrics, slopes.scores.buffers, {})


class _Solver:
    """Solves for T tasks at once, at their adapted states."""

    def __init__(self, ops: TaskOps, meta: Params, episodes: Episode, state: State) -> None:
        step = ops.linearise(meta, episodes, state, ops.num_steps(episodes) - 1)
        assert step.pullback is not None
        self._pullback = step.pullback
        problem = ops.proximal(state)
        tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        self._places = [places[id(tensor)] for tensor in problem.solution.values()]
        self._like, self._num_tensors, self._rate = list(problem.solution.values()), len(tensors), problem.rate

    def __call__(self, by_state: Cotangent, config: ImplicitConfig) -> tuple[Params, Cotangent, Tensor]:
        """Pull derivatives of the outer loss by the state back through the inner problem.

        Returns:
            Derivatives by the meta-parameters and by the state before the first inner step, and the residuals [T].
        """

        def product(vector: Tensor) -> Tensor:
            curved = (vector - self._joined(self._pull(vector)[1])) / self._rate
            return curved + config.damping * vector if config.damping else curved

        solution = conjugate_gradient(product, self._joined(by_state), steps=config.steps, tolerance=config.tolerance)
        by_meta, by_before = self._pull(solution.x / self._rate)
        # What the state passes on from its start (the anchor, features); a solution does not depend on where it starts.
        passed = add_cotangents(by_state, by_before)
        passed = tuple(None if place in self._places else each for place, each in enumerate(passed))
        return by_meta, passed, solution.residual

    def _pull(self, vector: Tensor) -> tuple[Params, Cotangent]:
        cotangent: list[Tensor | None] = [None] * self._num_tensors
        for place, part in zip(self._places, split(vector, self._like, 1), strict=True):
            cotangent[place] = part
        return self._pullback(tuple(cotangent))

    def _joined(self, cotangent: Cotangent) -> Tensor:
        parts = []
        for place, like in zip(self._places, self._like, strict=True):
            part = cotangent[place]
            parts.append(like.new_zeros(like.shape) if part is None else part)
        return joined(parts, 1)
