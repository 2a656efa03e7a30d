"""Policies: a fully connected network that gives the parameters of a distribution over actions.

    normal        outputs = (mean_1 .. mean_A, log sigma_1 .. log sigma_A)
                  mean = network(observation), log sigma: parameters, as in rllab (Duan et al. 2016, arXiv 1604.06778)
    categorical   outputs = logits = network(observation)

Logarithms of deviations are not let below that of `min_std`. With a `memory` the network is that of
`distmeta.models.recurrent`.
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
from distmeta.models.recurrent import Recurrent

_OUTSIDE = "outside"
"""Group of what belongs to no block."""
LOG_STD = "log_std"
"""Name and group of the logarithms of the deviations [A], which are part of the body."""


class Policy(Backbone):
    """Hidden layers `block1 .. blockL`, `memory` and `log_std` as the body, and the linear head.

    Args:
        config: Widths of the hidden layers and the memory, distribution of actions, deviations.
        input_shape: Shape of an observation, which is flattened.
        heads: Number of outputs by name of the head; that of `head` is twice the numbers of an action, or the number of
            discrete actions.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large, or the tasks have other actions.
    """

    acts = True

    def __init__(
        self, config: PolicyConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        outputs, is_normal = heads.get(HEAD, 0), config.actions == "normal"
        if is_normal and (outputs < 2 or outputs % 2):
            what = f"a policy has a mean and a deviation for each number of an action, not {outputs} outputs"
            allowed = "tasks with continuous actions ('navigation'), or model.actions 'categorical'"
            raise UserError(what, where="model.kind", allowed=allowed)
        sizes = {**heads, HEAD: outputs // 2 if is_normal else outputs}
        self._network: Backbone = (
            Recurrent(config.network, config.memory, input_shape, sizes, dtype)
            if config.memory
            else Mlp(config.network, input_shape, sizes, dtype)
        )
        self.heads, self.num_features, self.memory = dict(heads), self._network.num_features, config.memory
        self._log_std = torch.full((outputs // 2,), math.log(config.init_std), dtype=dtype) if is_normal else None
        self._least = math.log(config.min_std)

    @override
    def init(self, seed: int) -> Params:
        """Those of the network, and `log_std` before the heads."""
        params = self._network.init(seed)
        if self._log_std is None:
            return params
        of_body = {name: params[name] for name in self._network.groups()["body"]} | {LOG_STD: self._log_std.clone()}
        return of_body | {name: tensor for name, tensor in params.items() if name not in of_body}

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """[B, ...] -> [B, D]; with a memory, trials [B, H, F] -> [B, H, D], or steps [B, F + M] -> [B, D]."""
        return self._network.features(params, inputs, frame)

    @override
    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        """Parameters of the distribution, [..., D] -> [..., O]; of other heads than `head`, their outputs."""
        outputs = self._network.head(params, features, head)
        if head != HEAD or self._log_std is None:
            return outputs
        return torch.cat((outputs, params[LOG_STD].clamp(min=self._least).expand_as(outputs)), -1)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Those of the network, and `log_std`."""
        groups = self._network.groups()
        if self._log_std is None:
            return groups
        body = (*groups["body"], LOG_STD)
        of_heads = tuple(name for name in groups["all"] if name not in body)
        return {**groups, "all": (*body, *of_heads), "body": body, LOG_STD: (LOG_STD,), _OUTSIDE: (LOG_STD,)}

    @override
    def blocks(self) -> tuple[str, ...]:
        outside = () if self._log_std is None else (_OUTSIDE,)
        return (*outside, *self._network.blocks())
