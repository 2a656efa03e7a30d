"""The coordinate-wise LSTM of Andrychowicz et al. 2016, *Learning to learn by gradient descent by gradient descent*
(arXiv 1606.04474). Every parameter entry has a hidden state of its own; all share the weights.

    x            = (log|g| / p, sgn(g))  where |g| >= exp(-p),   (-1, exp(p) g)  elsewhere        (appendix A)
    out, state   = lstm(state, x)
    update       = scale * out

Deviation: forget gates begin with bias 1 (Jozefowicz et al. 2015).

Shapes: P entries, L layers, H width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.optimizers import LstmRuleConfig
from distmeta.core.types import Params
from distmeta.methods.learners.black_box import linear
from distmeta.methods.learners.recurrent import lstm_cell
from distmeta.methods.learners.rules.base import Slots, UpdateRule
from distmeta.models.heads import linear as linear_params


class LstmRule(UpdateRule):
    """Slots: `hidden` and `cell` [P, L, H]. There are no scalars."""

    def __init__(self, config: LstmRuleConfig) -> None:
        self._config = config

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        params, width, inputs = Params(), self._config.width, 2
        for layer in range(1, self._config.layers + 1):
            params |= linear_params(f"layer{layer}.input", inputs, 4 * width, rng, dtype)
            hidden = linear_params("hidden", width, 4 * width, rng, dtype)["hidden.weight"]
            params[f"layer{layer}.hidden.weight"] = hidden
            params[f"layer{layer}.input.bias"][width : 2 * width] = 1
            inputs = width
        return params | linear_params("out", width, 1, rng, dtype)

    @override
    def start(self, params: Tensor) -> Slots:
        zeros = params.new_zeros(*params.shape, self._config.layers, self._config.width)
        return {"hidden": zeros, "cell": zeros}

    @override
    def scalars(self, k: int, steps: int) -> tuple[float, ...]:
        return ()

    @override
    def update(
        self, own: Params, slots: Slots, grad: Tensor, params: Tensor, scalars: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Slots]:
        x, hidden, cell = preprocessed(grad, self._config.preprocess), [], []
        for layer in range(1, self._config.layers + 1):
            before, remembered = slots["hidden"][:, layer - 1], slots["cell"][:, layer - 1]
            gates = linear(own, f"layer{layer}.input", x) + before @ own[f"layer{layer}.hidden.weight"].T
            x, kept = lstm_cell(gates, remembered)
            hidden.append(x)
            cell.append(kept)
        update = self._config.scale * linear(own, "out", x)[:, 0]
        return update, {"hidden": torch.stack(hidden, 1), "cell": torch.stack(cell, 1)}


def preprocessed(grad: Tensor, p: float) -> Tensor:
    """Gradients [P] as sizes and signs [P, 2], both of order 1 whatever the scale (appendix A)."""
    least = math.exp(-p)
    is_large = grad.abs() >= least
    size = torch.where(is_large, grad.abs().clamp(min=least).log() / p, -torch.ones_like(grad))
    return torch.stack((size, torch.where(is_large, grad.sign(), grad / least)), 1)
