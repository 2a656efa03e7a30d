"""Convolutions that treat examples one by one, and a gate of their features (Beaulieu et al. 2020, arXiv 2002.09571).

    block      3x3 convolution without padding, norm, ReLU; 2x2 max pooling but for the last block
    features   blocks(x), flattened                              OML, without a gate
               blocks(x) * sigmoid(W gate_blocks(x) + b)         ANML: the neuromodulatory network is the group `gate`

No statistic is shared between images, so that a stream of single images is no special case. With images of 28 x 28
pixels, three blocks of 256 channels have 2,304 features, as in ANML's code, whose batch norm of one image at a time
is the norm of each channel of an image. Weights are Kaiming-normal, biases zero.

Deviations: grey images have one channel (theirs: three equal ones); convolutions before a norm have no bias, which
would have no effect; the head is initialised as torch's layers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from distmeta.config import ConvNetConfig
from distmeta.core.errors import UserError
from distmeta.models.module import ModuleBackbone


class _Gate(nn.Module):
    """Factors between 0 and 1 for each feature."""

    def __init__(self, blocks: Sequence[nn.Module], inputs: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, outputs)
        _kaiming(self.linear)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(self.blocks(x).flatten(1)))


class _ConvNet(nn.Module):
    def __init__(self, config: ConvNetConfig, shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self._num_blocks = len(config.filters)
        for number, block in enumerate(_blocks(config.filters, shape[0], config.norm), start=1):
            self.add_module(f"block{number}", block)
        features = _num_features(config.filters, shape)
        if config.gate:
            blocks = _blocks(config.gate, shape[0], config.norm)
            self.gate: _Gate | None = _Gate(blocks, _num_features(config.gate, shape), features)
        else:
            self.gate = None
        self.head = nn.Linear(features, num_outputs)

    @override
    def forward(self, x: Tensor) -> Tensor:
        factors = None if self.gate is None else self.gate(x)
        for number in range(1, self._num_blocks + 1):
            x = self.get_submodule(f"block{number}")(x)
        x = x.flatten(1)
        return self.head(x if factors is None else x * factors)  # type: ignore[no-any-return]


def convnet(
    config: ConvNetConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
) -> ModuleBackbone:
    """Build the network.

    Raises:
        UserError: The inputs are no images, or are too small for the blocks.
    """
    for field, filters in (("filters", config.filters), ("gate", config.gate)):
        if filters and (len(input_shape) != 3 or _side(len(filters), min(input_shape[1:])) < 1):
            what = f"{len(filters)} blocks do not fit inputs of shape {input_shape}"
            raise UserError(what, where=f"model.{field}", allowed="fewer blocks, or larger images")

    def make(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        return _ConvNet(config, shape, num_outputs)

    return ModuleBackbone(make, input_shape, heads, dtype, head="head", limits={})


def _blocks(filters: Sequence[int], channels: int, norm: str) -> list[nn.Sequential]:
    blocks = []
    for number, (before, width) in enumerate(zip((channels, *filters), filters, strict=False), start=1):
        convolution = nn.Conv2d(before, width, 3, bias=norm == "none")  # a norm subtracts what it adds
        _kaiming(convolution)
        layers: list[nn.Module] = [convolution]
        layers += [nn.InstanceNorm2d(width, affine=True)] if norm == "instance" else []
        layers.append(nn.ReLU())
        layers += [nn.MaxPool2d(2)] if number < len(filters) else []
        blocks.append(nn.Sequential(*layers))
    return blocks


def _kaiming(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _side(num_blocks: int, side: int) -> int:
    """Pixels of a side after the blocks."""
    for block in range(1, num_blocks + 1):
        side = side - 2 if block == num_blocks else (side - 2) // 2
    return side


def _num_features(filters: Sequence[int], shape: tuple[int, ...]) -> int:
    return filters[-1] * _side(len(filters), shape[1]) * _side(len(filters), shape[2])
