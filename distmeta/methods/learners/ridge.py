"""A head in closed form: ridge regression on the features (R2-D2, Bertinetto et al. 2019, arXiv 1805.08136, section 3).

    W          = argmin |X W - Y|^2 + lambda |W|^2
               = (X' X + lambda I)^-1 X' Y        N >  D
               = X' (X X' + lambda I)^-1 Y        N <= D: the Woodbury identity
    outputs(x) = scale * x W + bias

The rows of X are the support features, with a 1 appended for the intercept (as in the authors' code); Y holds one-hot
labels, or the targets of regression. lambda, scale and bias are meta-parameters, or fixed. The signal goes through the
solve. There are no inner steps (K = 0) and no parameters for a class, so training may use a larger way than evaluation.

lambda is learned as its logarithm. The bias is one number for all outputs: it matters to regression, and cancels in the
softmax of classification. Deviations from the authors' code: it divides X and Y by the square root of N, which
multiplies lambda by N; it can learn lambda and scale as powers of a base of its own.

Shapes: B queries, N support examples, D features with the appended one, O outputs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import RidgeConfig
from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

LOG_LAMBDA, SCALE, BIAS = "ridge.log_lambda", "ridge.scale", "ridge.bias"


class RidgeHead(NamedTuple):
    """Adapted state: W [D, O]."""

    weight: Tensor


class RidgeLearner(Learner):
    """Fits a linear head by ridge regression.

    Args:
        config: Initial regularisation and scale, and whether they are learned; the intercept.
        backbone: The network; its head is not used, but terms on the meta-parameters may have others.
        num_outputs: O.
    """

    reads_features_only = True

    def __init__(self, config: RidgeConfig, backbone: Backbone, num_outputs: int) -> None:
        super().__init__(backbone)
        self._config, self._num_outputs = config, num_outputs
        self._initial = {LOG_LAMBDA: math.log(config.regularisation), SCALE: config.scale, BIAS: 0.0}

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the backbone without the head that is fitted, and the learned numbers."""
        params, fitted = self.backbone.init(seed), self.backbone.head_names(HEAD)
        others = {name: params[name] for name in self.backbone.groups()["all"] if name not in fitted}
        return others | (self._initial_numbers(next(iter(params.values()))) if self._config.learned else {})

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> RidgeHead:
        """The weights of the head."""
        features = self._extended(net.features(meta, task.support.inputs))
        regularisation = self._numbers(meta, features)[LOG_LAMBDA].exp()
        return RidgeHead(ridge(features, self._fitted(task.support, features.dtype), regularisation))

    @override
    def predict(
        self, net: Network, meta: Params, fast: RidgeHead, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Outputs [B, O]: logits, or predicted numbers."""
        features = self._extended(net.features(meta, inputs, task.support.inputs))
        numbers = self._numbers(meta, features)
        return numbers[SCALE] * (features @ fast.weight) + numbers[BIAS]

    def _numbers(self, meta: Params, like: Tensor) -> Params:
        """The logarithm of lambda, scale and bias: [] each."""
        return meta if self._config.learned else self._initial_numbers(like)

    def _initial_numbers(self, like: Tensor) -> Params:
        return {name: like.new_full((), value) for name, value in self._initial.items()}

    def _extended(self, features: Tensor) -> Tensor:
        if not self._config.intercept:
            return features
        return torch.cat((features, torch.ones_like(features[:, :1])), 1)

    def _fitted(self, support: Batch, dtype: torch.dtype) -> Tensor:
        """What the head is fitted to [N, O]."""
        assert support.targets is not None
        if support.targets.is_floating_point():
            return support.targets
        classes = torch.arange(self._num_outputs, device=support.targets.device)
        return (support.targets[:, None] == classes).to(dtype)


def ridge(x: Tensor, y: Tensor, regularisation: Tensor) -> Tensor:
    """Weights [D, O] that minimise `|x W - y|^2 + regularisation |W|^2`, by the smaller of two systems of equations.

    Args:
        x: [N, D].
        y: [N, O].
        regularisation: [], positive.
    """
    if x.shape[0] > x.shape[1]:
        return _solve(x, regularisation, x.T @ y)
    return x.T @ _solve(x.T, regularisation, y)


def _solve(x: Tensor, regularisation: Tensor, right: Tensor) -> Tensor:
    """Solve `(x' x + regularisation I) S = right` for S [D, O], given x [N, D] and right [D, O].

    The triangle R of the QR decomposition of x above `regularisation^(1/2) I` is a Cholesky factor, and is more exact
    than one of the product. It has no derivative, and needs none: two steps of refinement from the solution `start`,

        S <- S + (R' R)^-1 (right - (x' x + regularisation I) S)

    keep its value and have the first and second derivatives of the solution.
    """
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    stacked = torch.cat((x, regularisation.sqrt() * identity)).detach()
    factor = torch.geqrf(stacked).a[: x.shape[1]].triu()
    start = solution = torch.cholesky_solve(right.detach(), factor, upper=True)
    matrix = x.T @ x + regularisation * identity
    for _ in range(2):
        solution = solution + torch.cholesky_solve(right - matrix @ solution, factor, upper=True)
    return start + (solution - solution.detach())
