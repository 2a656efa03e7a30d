"""Functions on flat mappings of tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from distmeta.core.types import Params

Value = TypeVar("Value")

NORM_BLOCK = 1 << 14
"""Entries that are squared and summed at once for a norm; torch parallelises sums of twice as many."""


def below(values: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """The values whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def cloned(params: Mapping[str, Tensor]) -> Params:
    """Detached copies."""
    return {name: tensor.detach().clone() for name, tensor in params.items()}


def all_finite(params: Mapping[str, Tensor]) -> bool:
    """Whether no entry is infinite or NaN. Tensors are read once, without temporaries."""
    return all(_is_finite(tensor.detach()) for tensor in params.values())


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # If an entry is NaN, both extremes are NaN; if an entry is infinite, an extreme is.
    low, high = torch.aminmax(torch.view_as_real(tensor) if tensor.is_complex() else tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def global_norm(params: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all tensors, summed in float64 in the order of names."""
    total = 0.0
    for name in sorted(params):  # not `sum`, which compensates for rounding in some versions of Python
        total += _squared_norm(params[name].detach())
    return math.sqrt(total)


def _squared_norm(tensor: Tensor) -> float:
    """Sum by blocks that fit into a cache and that torch sums on one thread, independent of the number of threads."""
    total = 0.0
    for block in torch.split(tensor.reshape(-1), NORM_BLOCK):
        total += squared_sum(block)
    return total


def squared_sum(block: Tensor) -> float:
    """Sum of squares of at most `NORM_BLOCK` entries, in float64."""
    return float(block.to(torch.float64, copy=True).square_().sum())


def digest(params: Mapping[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and bytes, in the order of names: equal if and only if all bits are."""
    state = hashlib.sha256()
    for name in sorted(params):
        tensor = params[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
