"""Functions on flat mappings of tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distmeta.core.types import Params

_PIECE = 1 << 14  # entries; torch shares out sums of twice as many over threads


def detached(params: Mapping[str, Tensor]) -> Params:
    """The same values without history, sharing memory."""
    return {name: tensor.detach() for name, tensor in params.items()}


def cloned(params: Mapping[str, Tensor]) -> Params:
    """A copy without history."""
    return {name: tensor.detach().clone() for name, tensor in params.items()}


def all_finite(params: Mapping[str, Tensor]) -> bool:
    """True if no entry of any tensor is infinite or not a number. Tensors are read once, without temporaries."""
    return all(_finite(tensor.detach()) for tensor in params.values())


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # Both extremes are NaN if any entry is; they are the infinite entries if there are any.
    low, high = torch.aminmax(torch.view_as_real(tensor) if tensor.is_complex() else tensor)
    return math.isfinite(low.item()) and math.isfinite(high.item())


def global_norm(params: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all entries together, summed in float64 in the order of names."""
    total = 0.0
    for name in sorted(params):  # not `sum`, which compensates for rounding in some versions of Python
        total += _squared_norm(params[name].detach())
    return math.sqrt(total)


def _squared_norm(tensor: Tensor) -> float:
    """By pieces that fit into a cache and that torch sums on one thread: the bits do not depend on threads."""
    total = 0.0
    for piece in torch.split(tensor.reshape(-1), _PIECE):
        total += float(piece.to(torch.float64, copy=True).square_().sum())
    return total


def digest(params: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes, in the order of names: equal exactly if the bits are."""
    state = hashlib.sha256()
    for name in sorted(params):
        tensor = params[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
