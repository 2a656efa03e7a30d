"""Learned inner rates and strengths of L2-SP, by parameter group.

    rate_g = lr * exp(r_g);     penalty = sum_g  exp(s_g) / 2 * |fast_g - start_g|^2

r_g and s_g are meta-parameters, so that rates and strengths are positive by construction, and steps of the outer
optimizer multiply them. Learning hyperparameters by the gradient of the query loss: Franceschi et al. 2018 (arXiv
1806.04910). L2-SP: Li, Grandvalet & Davoine 2018 (arXiv 1802.01483).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.inner import HyperparametersConfig
from distmeta.core.types import Params
from distmeta.methods.learners.inner.base import PREFIX, InnerPart, Rates
from distmeta.methods.learners.phases import group_names

LOG_LR, LOG_L2SP = f"{PREFIX}.log_lr", f"{PREFIX}.log_l2sp"


class Hyperparameters(InnerPart):
    """One rate and one strength for each group [G].

    Args:
        config: Groups, what is learned.
        groups: The network's parameter groups.
        where: Field of the configuration that `config` is, for messages.
    """

    def __init__(self, config: HyperparametersConfig, groups: dict[str, tuple[str, ...]], where: str) -> None:
        self._config, self.needs_anchor = config, config.l2sp is not None
        self._index = {
            name: index
            for index, group in enumerate(config.groups)
            for name in group_names(groups, group, f"{where}.groups")
        }

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        config, count = self._config, len(self._config.groups)
        params = {LOG_LR: torch.zeros(count, dtype=dtype)} if config.lr else {}
        if config.l2sp is not None:
            params[LOG_L2SP] = torch.full((count,), math.log(config.l2sp), dtype=dtype)
        return params

    @override
    def rates(self, meta: Params, rates: Rates) -> Rates:
        if not self._config.lr:
            return rates
        factors = meta[LOG_LR].exp()
        return {
            name: rate * factors[self._index[name]] if name in self._index else rate for name, rate in rates.items()
        }

    @override
    def penalty(self, meta: Params, moving: Params, anchor: Params) -> Tensor | None:
        if self._config.l2sp is None:
            return None
        strengths, total = meta[LOG_L2SP].exp(), meta[LOG_L2SP].new_zeros(())
        for name, tensor in moving.items():
            if name in self._index:
                total = total + 0.5 * strengths[self._index[name]] * (tensor - anchor[name]).square().sum()
        return total
