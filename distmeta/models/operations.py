"""Operations that a cell's edges choose from: images [B, C, H, W] -> [B, C, H, W].

    conv3x3, conv1x1      ReLU, convolution, batch norm
    max_pool, avg_pool    3x3, batch norm without scale and shift
    skip, zero            the input itself; nothing

Batch norm takes its statistics from the whole batch, or from its first images (the support set).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.models.convolution import conv3x3
from distmeta.models.normalization import batch_norm, context_batch_norm

KERNELS = {"conv3x3": 3, "conv1x1": 1}
"""Sides of the kernels of operations with parameters: `conv.weight`, `norm.weight`, `norm.bias`."""


def normalised(x: Tensor, num_context: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch norm by the statistics of the first `num_context` images."""
    if num_context == x.shape[0]:
        return batch_norm(x, weight, bias)
    return context_batch_norm(x, num_context, weight, bias)


def _conv3x3(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    x = conv3x3(torch.relu(x), params[f"{name}.conv.weight"], 1)
    return normalised(x, num_context, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"])


def _conv1x1(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    pixels = torch.relu(x).movedim(1, -1)
    x = (pixels.flatten(0, 2) @ params[f"{name}.conv.weight"].T).reshape(pixels.shape).movedim(-1, 1)
    return normalised(x, num_context, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"])


def _max_pool(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    channels = x.shape[1]
    return normalised(F.max_pool2d(x, 3, 1, 1), num_context, x.new_ones(channels), x.new_zeros(channels))


def _avg_pool(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    channels = x.shape[1]
    pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return normalised(pooled, num_context, x.new_ones(channels), x.new_zeros(channels))


def _skip(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    return x


def _zero(x: Tensor, params: Mapping[str, Tensor], name: str, num_context: int) -> Tensor:
    return torch.zeros_like(x)


OPERATIONS: dict[str, Callable[[Tensor, Mapping[str, Tensor], str, int], Tensor]] = {
    "conv3x3": _conv3x3,
    "conv1x1": _conv1x1,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "skip": _skip,
    "zero": _zero,
}
"""(images, parameters, prefix of their names, number of images for the statistics) -> images."""
