"""Solve the proximal inner problem by Newton-CG: the Hessian-free variant of iMAML (Rajeswaran et al. 2019).

    F(phi)    = L_support(phi) + proximal / 2 * |phi - meta|^2
    p         = -(H + proximal I)^-1 grad F(phi)           by conjugate gradient, H = Hessian of L_support at phi
    phi      <- phi + s p                                  s = the best of 0, 1, 1/2, 1/4, ... for F

The operations are the same for every task: a fixed number of iterations, of which a task that has reached its
tolerance uses no more, and a fixed set of step sizes, all of which are evaluated. Where H + proximal I is not positive
definite, p is what conjugate gradient reached before it noticed, at worst steepest descent.

The last inner step is a gradient step, `phi - lr * grad F(phi)`. It is what the estimator `implicit` differentiates: at
a solution it moves nothing, and its Jacobian has the products with H that an implicit gradient needs.

Deviations from the paper: the closing gradient step, and the number of Newton steps and of step sizes, which are ours
(the paper names five iterations of conjugate gradient and a line search; the authors' code leaves this variant out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp
from typing_extensions import override

from distmeta.config import GradientConfig, NewtonConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Params
from distmeta.methods.conjugate_gradient import as_named, conjugate_gradient, joined
from distmeta.methods.learners.base import Stage
from distmeta.methods.learners.gradient import FastWeights, GradientLearner
from distmeta.models.base import Backbone
from distmeta.models.network import Network

_GRADIENT, _NEWTON = range(2)
"""Kinds of steps."""


class NewtonLearner(GradientLearner):
    """Newton-CG steps, then a gradient step, on a proximal problem.

    Args:
        config: The proximal term and the solver.
        backbone, objective, where: See `GradientLearner`.

    Raises:
        UserError: The network has no second derivatives, or a parameter group, head or objective is unknown.
    """

    step_order = 2

    def __init__(
        self, config: NewtonConfig, backbone: Backbone, objective: str, where: str = "algorithm.learner"
    ) -> None:
        if "second_order" in backbone.limits:
            raise UserError(
                f"Newton steps need second derivatives, which the network lacks ({backbone.limits['second_order']})",
                where=f"{where}.kind",
                allowed="gradient, or another network",
            )
        phase = Phase(
            groups=config.groups,
            steps=1,
            lr=config.lr,
            role=config.role,
            head=config.head,
            objective=config.objective,
            l2sp=config.proximal,
        )
        super().__init__(GradientConfig(phases=(phase,)), backbone, objective, where)
        self._config = config
        self._sizes = (0.0, *(0.5**i for i in range(config.step_sizes)))

    @override
    def _field(self, where: str, index: int) -> str:
        return where

    @override
    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        """Newton steps, then a gradient step."""
        return [Stage(_NEWTON, self._config.role)] * self._config.steps + [Stage(_GRADIENT, self._config.role)]

    @override
    def advance(
        self, net: Network, meta: Params, fast: FastWeights, batch: Batch, kind: int, scalars: Tensor
    ) -> FastWeights:
        if kind == _GRADIENT:
            return super().advance(net, meta, fast, batch, kind, scalars)
        loss = self._loss(net, meta, fast, batch, fast.features, self._phases[0])

        def slopes(moved: Params) -> tuple[Params, tuple[Tensor, Params]]:
            gradient, value_and_buffers = grad_and_value(loss, has_aux=True)(moved)
            return gradient, value_and_buffers

        gradient, pullback, (value, net.buffers) = vjp(slopes, fast.moved, has_aux=True)  # type: ignore[misc]

        def product(vector: Tensor) -> Tensor:
            """With the Hessian, which is symmetric."""
            return joined(list(pullback(as_named(vector, fast.moved))[0].values()))

        right = -joined(list(gradient.values()))
        steps, tolerance = self._config.cg_steps, self._config.cg_tolerance
        direction = as_named(conjugate_gradient(product, right, steps=steps, tolerance=tolerance).x, fast.moved)
        values = [value, *(loss(_moved(fast.moved, direction, size))[0] for size in self._sizes[1:])]
        return fast._replace(moved=_moved(fast.moved, direction, self._best(torch.stack(values))))

    def _best(self, values: Tensor) -> Tensor:
        """The step size of the smallest value."""
        finite = torch.where(values.isfinite(), values, torch.inf)
        sizes = torch.tensor(self._sizes, dtype=values.dtype, device=values.device)
        is_best = torch.arange(len(self._sizes), device=values.device) == finite.argmin()
        return torch.where(is_best, sizes, 0.0).sum()


def _moved(params: Params, direction: Params, size: Tensor | float) -> Params:
    return {name: tensor + size * direction[name] for name, tensor in params.items()}
