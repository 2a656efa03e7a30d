"""Updates in fewer bytes, with error feedback.

    x       = grad + residual                 what rounding lost of this worker's earlier updates is made up for
    sent    = round(x)
    residual <- x - sent

so that the sum of all that a worker sent differs from the sum of its gradients by the last residual alone (Seide et al.
2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD"). Rounding is to the
nearest, ties to even:

    bf16    to bfloat16: 2 bytes an entry, relative error at most 2^-8
    int8    to whole multiples of max|x| / 127 in blocks of BLOCK entries: 1 byte an entry and 4 bytes a block, error at
            most max|x| / 254 of the block

Tensors that are not floating point, or would not get smaller, are sent as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distmeta.core.tensors import all_finite
from distmeta.core.types import Params

Kind = Literal["bf16", "int8"]
Compression = Literal["none", "bf16", "int8"]
"""Values of `outer.compression`."""

BLOCK = 1024
"""Entries with one scale."""
_SCALES = "/scales"
_LEVELS = 127


@dataclass(frozen=True)
class Compressed:
    """An update in fewer bytes.

    Attributes:
        kind: How.
        dtypes: Name of each tensor's type before; plain data.
        tensors: The tensors to send, by name: `<name>` shaped as before, for `int8` also `<name>/scales` ([blocks]).
        finite: Whether what `decompress` makes of them is finite.
    """

    kind: Kind
    dtypes: dict[str, str]
    tensors: Params
    finite: bool


class Compressor:
    """Compresses the updates of one worker, one after the other.

    Args:
        kind: `bf16` or `int8`.

    Attributes:
        residual: What rounding has lost and the next update makes up for; empty at first.
    """

    def __init__(self, kind: Kind) -> None:
        self.residual: Params = {}
        self._kind: Kind = kind

    def compress(self, grad: Mapping[str, Tensor]) -> Compressed:
        """Compress an update. One that is not finite is not finite afterwards and leaves no residual."""
        dtypes: dict[str, str] = {}
        tensors: Params = {}
        residual: Params = {}
        for name, tensor in grad.items():
            dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            local = tensor.detach().cpu().contiguous()
            if not _shrinks(local.dtype, self._kind):
                tensors[name] = local
                continue
            exact = local.to(_wide(local.dtype))
            if name in self.residual:
                exact = exact + self.residual[name]
            packed = _rounded(name, exact, self._kind)
            residual[name] = exact - _restored(name, packed, local.dtype)
            tensors |= packed
        finite = all_finite(residual) and all_finite(tensors)
        if finite:
            self.residual |= residual
        return Compressed(self._kind, dtypes, tensors, finite)


def decompress(compressed: Compressed) -> Params:
    """The update, rounded, with the names, shapes and types it had."""
    grad: Params = {}
    for name, dtype in compressed.dtypes.items():
        before: torch.dtype = getattr(torch, dtype)
        if _shrinks(before, compressed.kind):
            grad[name] = _restored(name, compressed.tensors, before)
        else:
            grad[name] = compressed.tensors[name]
    return grad


def _shrinks(dtype: torch.dtype, kind: Kind) -> bool:
    return dtype.is_floating_point and dtype.itemsize > (2 if kind == "bf16" else 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _rounded(name: str, exact: Tensor, kind: Kind) -> Params:
    if kind == "bf16":
        return {name: exact.to(torch.bfloat16)}
    blocks = _blocks(exact)
    scales = (blocks.abs().amax(dim=1) / _LEVELS).to(torch.float32)
    # A block of zeros, or of entries so small that the scale is 0, is sent as zeros.
    divisors = torch.where(scales > 0, scales, torch.inf).to(exact.dtype)
    whole = (blocks / divisors[:, None]).round_().clamp_(-_LEVELS, _LEVELS).nan_to_num_(0.0)
    flat = whole.to(torch.int8).reshape(-1)[: exact.numel()]
    return {name: flat.reshape(exact.shape), name + _SCALES: scales}


def _restored(name: str, tensors: Params, dtype: torch.dtype) -> Tensor:
    rounded = tensors[name]
    if rounded.dtype is torch.bfloat16:
        return rounded.to(dtype)
    wide = _wide(dtype)
    blocks = _blocks(rounded.to(wide)) * tensors[name + _SCALES].to(wide)[:, None]
    return blocks.reshape(-1)[: rounded.numel()].reshape(rounded.shape).to(dtype)


def _blocks(tensor: Tensor) -> Tensor:
    """The entries in rows of BLOCK, zeros after the last."""
    count = math.ceil(tensor.numel() / BLOCK)
    flat = torch.nn.functional.pad(tensor.reshape(-1), (0, count * BLOCK - tensor.numel()))
    return flat.reshape(count, BLOCK)
