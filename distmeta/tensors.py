"""Functions on flat mappings of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from distmeta.types import Params


def detached(params: Mapping[str, Tensor]) -> Params:
    """The same values without history, sharing memory."""
    return {name: tensor.detach() for name, tensor in params.items()}


def cloned(params: Mapping[str, Tensor]) -> Params:
    """A copy without history."""
    return {name: tensor.detach().clone() for name, tensor in params.items()}


def all_finite(params: Mapping[str, Tensor]) -> bool:
    """True if no entry of any tensor is infinite or not a number."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in params.values())


def global_norm(params: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all entries together, summed in float64 in the order of names."""
    total = torch.zeros((), dtype=torch.float64)
    for name in sorted(params):
        total += params[name].detach().double().square().sum().cpu()
    return float(total.sqrt())


def digest(params: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes, in the order of names: equal exactly if the bits are."""
    state = hashlib.sha256()
    for name in sorted(params):
        tensor = params[name].detach().cpu().contiguous()
        state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
