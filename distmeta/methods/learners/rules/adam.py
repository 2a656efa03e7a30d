"""Adam (Kingma & Ba 2015, arXiv 1412.6980), whose rate is the exponential of a meta-parameter.

    update = -exp(log_rate) * c_k * m / (sqrt(v) + epsilon)      m, v: moments with bias correction
    c_k    = 1, or (1 + cos(pi k / K)) / 2

The baseline of learned optimizers: its only parameter can be tuned, or learned like theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.optimizers import AdamRuleConfig
from distmeta.core.types import Params
from distmeta.methods.learners.rules.base import Slots, UpdateRule, second_root

LOG_RATE = "log_rate"


class AdamRule(UpdateRule):
    """Adam. Its own parameters are `log_rate` [1]; scalars are the bias corrections and c_k."""

    def __init__(self, config: AdamRuleConfig) -> None:
        self._config = config

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        return {LOG_RATE: torch.full((1,), math.log(self._config.lr), dtype=dtype)}

    @override
    def start(self, params: Tensor) -> Slots:
        return {"first": torch.zeros_like(params), "second": torch.zeros_like(params)}

    @override
    def scalars(self, k: int, steps: int) -> tuple[float, ...]:
        share = min(k / steps, 1.0) if self._config.schedule == "cosine" else 0.0
        corrections = (1 - self._config.beta1 ** (k + 1), 1 - self._config.beta2 ** (k + 1))
        return (*corrections, (1 + math.cos(math.pi * share)) / 2)

    @override
    def update(
        self, own: Params, slots: Slots, grad: Tensor, params: Tensor, scalars: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Slots]:
        b1, b2 = self._config.beta1, self._config.beta2
        first, second = b1 * slots["first"] + (1 - b1) * grad, b2 * slots["second"] + (1 - b2) * grad * grad
        direction = (first / scalars[0]) / second_root(second / scalars[1])
        return -own[LOG_RATE].exp() * scalars[2] * direction, {"first": first, "second": second}
