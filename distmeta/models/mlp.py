"""Fully connected network with ReLU: the sinusoid regressor of MAML (Finn et al. 2017) is `hidden=(40, 40)`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import MlpConfig
from distmeta.config.bounds import MAX_PARAMETERS
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import Backbone


class Mlp(Backbone):
    """Hidden layers `block1 .. blockL`, then the linear head.

    Args:
        config: Widths of the hidden layers.
        input_shape: Shape of one example, which is flattened.
        num_outputs: O.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large.
    """

    def __init__(self, config: MlpConfig, input_shape: tuple[int, ...], num_outputs: int, dtype: torch.dtype) -> None:
        count = config.count_parameters(math.prod(input_shape), num_outputs)
        if count > MAX_PARAMETERS:
            what = f"{list(config.hidden)} makes {count} parameters on inputs of shape {list(input_shape)}"
            raise UserError(what, where="model.hidden", allowed=f"at most {MAX_PARAMETERS} parameters")
        self.num_outputs = num_outputs
        self._sizes = (math.prod(input_shape), *config.hidden, num_outputs)
        self._dtype = dtype

    @override
    def init(self, seed: int) -> Params:
        """Weights uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), biases zero."""
        rng = torch.Generator().manual_seed(mix(seed, "mlp"))
        params: Params = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self._sizes[:-1], self._sizes[1:], strict=True), start=1):
            name = "head" if layer == len(self._sizes) - 1 else f"block{layer}"
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = torch.rand(fan_out, fan_in, generator=rng, dtype=torch.float64) * 2 - 1
            params[f"{name}.weight"] = (weight * bound).to(self._dtype)
            params[f"{name}.bias"] = torch.zeros(fan_out, dtype=self._dtype)
        return params

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, ...] -> [B, last hidden width]."""
        x = inputs.flatten(1)
        for layer in range(1, len(self._sizes) - 1):
            x = torch.relu(x @ params[f"block{layer}.weight"].T + params[f"block{layer}.bias"])
        return x

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, `head` and each `blockL`."""
        blocks = {
            f"block{layer}": (f"block{layer}.weight", f"block{layer}.bias") for layer in range(1, len(self._sizes) - 1)
        }
        body = tuple(name for block in blocks.values() for name in block)
        head = ("head.weight", "head.bias")
        return {"all": body + head, "body": body, "head": head, **blocks}
