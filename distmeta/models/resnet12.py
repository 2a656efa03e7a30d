"""ResNet-12 of few-shot learning (Oreshkin et al. 2018, arXiv 1805.10123; Lee et al. 2019, arXiv 1904.03758).

    block   3 x (3x3 convolution, batch norm, leaky ReLU) beside a 1x1 convolution with batch norm; 2x2 max pooling
    net     four blocks, mean over the pixels, a linear head

Deviations: dropout of whole entries after each block where those papers use DropBlock or none; torch's initial values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distmeta.config import ResNet12Config
from distmeta.core.errors import UserError
from distmeta.models.base import INDUCTIVE, TRANSDUCTIVE
from distmeta.models.module import ModuleBackbone

SLOPE = 0.1
_MIN_SIDE = 16
_GROUPS = 8


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, dropout: float, kind: str) -> None:
        super().__init__()

        def norm() -> nn.Module:
            if kind == "group":
                return nn.GroupNorm(math.gcd(width, _GROUPS), width)
            return nn.BatchNorm2d(width, track_running_stats=kind == "running")

        sizes = (channels, width, width)
        self.convs = nn.ModuleList(nn.Conv2d(size, width, 3, padding=1, bias=False) for size in sizes)
        self.norms = nn.ModuleList(norm() for _ in sizes)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), norm())
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = y if i == len(self.convs) - 1 else F.leaky_relu(y, SLOPE)
        y = F.leaky_relu(y + self.shortcut(x), SLOPE)
        return self.dropout(F.max_pool2d(y, 2))  # type: ignore[no-any-return]


class _ResNet12(nn.Module):
    def __init__(self, config: ResNet12Config, channels: int, num_outputs: int) -> None:
        super().__init__()
        sizes = (channels, *config.widths)
        for i, width in enumerate(config.widths):
            self.add_module(f"block{i + 1}", _Block(sizes[i], width, config.dropout, config.norm))
        self.head = nn.Linear(config.widths[-1], num_outputs)

    @override
    def forward(self, x: Tensor) -> Tensor:
        for i in range(4):
            x = self.get_submodule(f"block{i + 1}")(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def resnet12(
    config: ResNet12Config, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
) -> ModuleBackbone:
    """Build the network.

    Raises:
        UserError: The inputs are no images, or are too small for four poolings.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < _MIN_SIDE:
        what = f"resnet12 takes images of {_MIN_SIDE}x{_MIN_SIDE} pixels or more, not inputs of shape {input_shape}"
        raise UserError(what, where="model.kind", allowed="mlp, or tasks of larger images")
    protocol = TRANSDUCTIVE if config.norm == "batch" else INDUCTIVE

    def make(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        return _ResNet12(config, shape[0], num_outputs)

    return ModuleBackbone(make, input_shape, heads, dtype, head="head", protocol=protocol, limits={})
