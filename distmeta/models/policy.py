"""Gaussian policy: the means of actions from a fully connected network, deviations that do not depend on observations.

    outputs = (mean_1 .. mean_A, log sigma_1 .. log sigma_A),   mean = head(mlp(observation)),   log sigma: parameters

as in rllab (Duan et al. 2016, arXiv 1604.06778). The logarithms are not let below those of `min_std`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.models import PolicyConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.models.base import HEAD
from distmeta.models.mlp import Mlp

LOG_STD = "log_std"
"""Name and group of the logarithms of the deviations [A]: part neither of the body nor of a head."""


class Policy(Mlp):
    """Hidden layers `block1 .. blockL`, the linear head of means, and `log_std`.

    Args:
        config: Widths of the hidden layers, activation, deviations.
        input_shape: Shape of an observation, which is flattened.
        heads: Number of outputs by name of the head: twice the numbers of an action.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large, or the tasks have no continuous actions.
    """

    acts = True

    def __init__(
        self, config: PolicyConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        sizes = set(heads.values())
        if len(sizes) != 1 or next(iter(sizes)) % 2:
            what = f"a policy has a mean and a deviation for each number of an action, not {sorted(sizes)} outputs"
            raise UserError(what, where="model.kind", allowed="tasks with continuous actions ('navigation')")
        super().__init__(config.network, input_shape, {head: outputs // 2 for head, outputs in heads.items()}, dtype)
        self._size, self._init_std, self._least = sizes.pop() // 2, config.init_std, math.log(config.min_std)

    @override
    def init(self, seed: int) -> Params:
        """The network's parameters, and `log_std`."""
        return super().init(seed) | {LOG_STD: torch.full((self._size,), math.log(self._init_std), dtype=self._dtype)}

    @override
    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        mean = super().head(params, features, head)
        return torch.cat((mean, params[LOG_STD].clamp(min=self._least).expand_as(mean)), -1)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Those of the network, and `log_std`."""
        groups = super().groups()
        return {**groups, "all": (*groups["all"], LOG_STD), LOG_STD: (LOG_STD,)}
