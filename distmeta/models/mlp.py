"""Fully connected network with ReLU: the sinusoid regressor of MAML (Finn et al. 2017) is `hidden=(40, 40)`.

With context parameters c (Zintgraf et al. 2019, arXiv 1810.03642, section 3.2) the input is (x, c).
"""

from __future__ import annotations

import itertools
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
from distmeta.models.base import Backbone, Frame
from distmeta.models.heads import CONTEXT, init_heads, linear, with_heads


class Mlp(Backbone):
    """Hidden layers `block1 .. blockL`, then the linear head.

    Args:
        config: Widths of the hidden layers.
        input_shape: Shape of one example, which is flattened.
        heads: Number of outputs by name of the head.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large.
    """

    def __init__(
        self, config: MlpConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        count = config.count_parameters(math.prod(input_shape), max(heads.values(), default=1))
        if count > MAX_PARAMETERS:
            what = f"{list(config.hidden)} makes {count} parameters on inputs of shape {list(input_shape)}"
            raise UserError(what, where="model.hidden", allowed=f"at most {MAX_PARAMETERS} parameters")
        self.heads = dict(heads)
        self._context_size = config.context_size
        self._sizes = (math.prod(input_shape) + config.context_size, *config.hidden)
        self.num_features = self._sizes[-1]
        self._dtype = dtype

    @override
    def init(self, seed: int) -> Params:
        """Weights uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), biases zero."""
        rng = torch.Generator().manual_seed(mix(seed, "mlp"))
        sizes = itertools.pairwise(self._sizes)
        layers = {f"block{layer}": size for layer, size in enumerate(sizes, start=1)}
        params: Params = {CONTEXT: torch.zeros(self._context_size, dtype=self._dtype)} if self._context_size else {}
        for name, (fan_in, fan_out) in layers.items():
            params |= linear(name, fan_in, fan_out, rng, self._dtype)
        return params | init_heads(self, seed, rng, self._dtype)

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """[B, ...] -> [B, last hidden width]."""
        x = inputs.flatten(1)
        if self._context_size:
            x = torch.cat((x, params[CONTEXT].expand(len(x), -1)), 1)
        for layer in range(1, len(self._sizes)):
            x = torch.relu(x @ params[f"block{layer}.weight"].T + params[f"block{layer}.bias"])
            x = frame.tap(f"block{layer}", x)
        return x

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, every head, each `blockL`, and `context` where there is one."""
        blocks: dict[str, tuple[str, ...]] = {CONTEXT: (CONTEXT,)} if self._context_size else {}
        blocks |= {block: (f"{block}.weight", f"{block}.bias") for block in self.blocks()}
        return with_heads(self, blocks)

    @override
    def blocks(self) -> tuple[str, ...]:
        return tuple(f"block{layer}" for layer in range(1, len(self._sizes)))
