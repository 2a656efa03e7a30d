"""Gaussian policy: the means of actions from a fully connected network, deviations that do not depend on observations.

    outputs = (mean_1 .. mean_A, log sigma_1 .. log sigma_A),   mean = head(mlp(observation)),   log sigma: parameters

as in rllab (Duan et al. 2016, arXiv 1604.06778). The logarithms are not let below that of `min_std`.
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
from distmeta.models.base import HEAD, Backbone, Frame
from distmeta.models.mlp import Mlp

_OUTSIDE = "outside"
"""Group of what belongs to no block."""
LOG_STD = "log_std"
"""Name and group of the logarithms of the deviations [A], which are part of the body."""


class Policy(Backbone):
    """Hidden layers `block1 .. blockL` and `log_std` as the body, and the linear head of means.

    Args:
        config: Widths of the hidden layers, deviations.
        input_shape: Shape of an observation, which is flattened.
        heads: Number of outputs by name of the head; that of `head` is twice the numbers of an action.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large, or the tasks have no continuous actions.
    """

    acts = True

    def __init__(
        self, config: PolicyConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        outputs = heads.get(HEAD, 0)
        if outputs < 2 or outputs % 2:
            what = f"a policy has a mean and a deviation for each number of an action, not {outputs} outputs"
            raise UserError(what, where="model.kind", allowed="tasks with continuous actions ('navigation')")
        self._means = Mlp(config.network, input_shape, {**heads, HEAD: outputs // 2}, dtype)
        self.heads, self.num_features = dict(heads), self._means.num_features
        self._log_std = torch.full((outputs // 2,), math.log(config.init_std), dtype=dtype)
        self._least = math.log(config.min_std)

    @override
    def init(self, seed: int) -> Params:
        """Those of the network of means, and `log_std` before the heads."""
        params, body = self._means.init(seed), self._means.groups()["body"]
        of_body = {name: params[name] for name in body} | {LOG_STD: self._log_std.clone()}
        return of_body | {name: tensor for name, tensor in params.items() if name not in of_body}

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """[B, ...] -> [B, last hidden width]."""
        return self._means.features(params, inputs, frame)

    @override
    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        """Means and logarithms of deviations, [B, D] -> [B, 2 A]; of other heads than `head`, their outputs."""
        mean = self._means.head(params, features, head)
        if head != HEAD:
            return mean
        return torch.cat((mean, params[LOG_STD].clamp(min=self._least).expand_as(mean)), -1)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Those of the network of means, and `log_std`."""
        groups = self._means.groups()
        body = (*groups["body"], LOG_STD)
        of_heads = tuple(name for name in groups["all"] if name not in body)
        return {**groups, "all": (*body, *of_heads), "body": body, LOG_STD: (LOG_STD,), _OUTSIDE: (LOG_STD,)}

    @override
    def blocks(self) -> tuple[str, ...]:
        return (_OUTSIDE, *self._means.blocks())
