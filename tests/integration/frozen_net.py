"""A small network whose frozen body may be held in parts: users' code, as `model.target` names it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from distmeta.core import ranks
from distmeta.core.ranks import Ranks
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import Backbone, Frame
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.petl.frozen import frozen_linear
from distmeta.models.petl.partition import partition

LAYERS, WIDTH, RANK = 3, 128, 4
"""A layer has exactly as many weights as are worth dividing."""


class FrozenNet(Backbone):
    """x -> tanh(W x + b + B A x), three times: W and b are frozen, A, B (LoRA) and the head are tuned."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        heads: Mapping[str, int],
        dtype: torch.dtype,
        group: Ranks | None = None,
    ) -> None:
        self.heads, self.num_features, self._dtype = dict(heads), WIDTH, dtype
        generator = torch.Generator().manual_seed(7)

        def weight(*shape: int) -> nn.Parameter:
            scale = shape[-1] ** -0.5
            return nn.Parameter((torch.randn(*shape, generator=generator) * scale).to(dtype), requires_grad=False)

        self.body = nn.ModuleList()
        for fan_in in (input_shape[0], *[WIDTH] * LAYERS):
            layer = nn.ParameterDict({"weight": weight(WIDTH, fan_in), "bias": weight(WIDTH)})
            partition(layer, ranks.current if group is None else group)
            self.body.append(layer)

    @override
    def init(self, seed: int) -> Params:
        rng = torch.Generator().manual_seed(mix(seed, "lora"))
        params: Params = {}
        for layer in range(1, LAYERS + 1):
            params[f"lora{layer}.a"] = (torch.randn(RANK, WIDTH, generator=rng) * 0.1).to(self._dtype)
            params[f"lora{layer}.b"] = (torch.randn(WIDTH, RANK, generator=rng) * 0.1).to(self._dtype)
        return params | init_heads(self, seed, rng, self._dtype)

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        first, *layers = self.body
        x = torch.tanh(frozen_linear(inputs, first["weight"], first["bias"]))
        for number, layer in enumerate(layers, start=1):
            low_rank = x @ params[f"lora{number}.a"].T @ params[f"lora{number}.b"].T
            x = torch.tanh(frozen_linear(x, layer["weight"], layer["bias"]) + low_rank)
        return x

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        return with_heads(self, {f"lora{n}": (f"lora{n}.a", f"lora{n}.b") for n in range(1, LAYERS + 1)})
