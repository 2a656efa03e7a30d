"""Compression of updates, with error feedback.

    x        = grad + residual                add what rounding lost of this worker's earlier updates
    sent     = round(x)
    residual = x - sent

The sum of all that a worker sent then differs from the sum of its gradients only by the last residual (Seide et al.
2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD", arXiv:1901.09847).
Rounding is to the nearest, ties to even:

    bf16    to bfloat16: 2 bytes per entry, relative error at most 2^-8
    int8    to whole multiples of max|x| / 127 in blocks of BLOCK_SIZE entries: 1 byte per entry and 4 bytes per block,
            error at most max|x| / 254 of the block

Tensors that are not floating point, or would not get smaller, are sent unchanged.
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

BLOCK_SIZE = 1024
"""Entries that share one scale."""
_SCALES = "/scales"
_MAX_LEVEL = 127


@dataclass(frozen=True)
class Compressed:
    """A compressed update.

    Attributes:
        kind: How it is rounded.
        dtypes: Original type of each tensor.
        tensors: The tensors to send, by name: `<name>` in its shape, for `int8` also `<name>/scales` [blocks].
        finite: Whether the decompressed update is finite.
    """

    kind: Kind
    dtypes: dict[str, str]
    tensors: Params
    finite: bool


class Compressor:
    """Compresses the updates of one worker.

    Args:
        kind: `bf16` or `int8`.

    Attributes:
        residual: What rounding has lost, to be added to the next update; empty at first.
    """

    def __init__(self, kind: Kind) -> None:
        self.residual: Params = {}
        self._kind: Kind = kind

    def compress(self, grad: Mapping[str, Tensor]) -> Compressed:
        """Compress an update. One that is not finite stays so and leaves the residual unchanged."""
        dtypes: dict[str, str] = {}
        tensors: Params = {}
        residual: Params = {}
        for name, tensor in grad.items():
            dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            local = tensor.detach().cpu().contiguous()
            if not _shrinks(local.dtype, self._kind):
                tensors[name] = local
                continue
            exact = local.to(_working_dtype(local.dtype))
            if name in self.residual:
                exact = exact + self.residual[name]
            quantized = _quantize(name, exact, self._kind)
            residual[name] = exact - _dequantize(name, quantized, local.dtype)
            tensors |= quantized
        finite = all_finite(residual) and all_finite(tensors)
        if finite:
            self.residual |= residual
        return Compressed(self._kind, dtypes, tensors, finite)


def decompress(compressed: Compressed) -> Params:
    """Rebuild the rounded update with its original names, shapes and types."""
    grad: Params = {}
    for name, dtype in compressed.dtypes.items():
        original: torch.dtype = getattr(torch, dtype)
        if _shrinks(original, compressed.kind):
            grad[name] = _dequantize(name, compressed.tensors, original)
        else:
            grad[name] = compressed.tensors[name]
    return grad


def _shrinks(dtype: torch.dtype, kind: Kind) -> bool:
    return dtype.is_floating_point and dtype.itemsize > (2 if kind == "bf16" else 1)


def _working_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _quantize(name: str, exact: Tensor, kind: Kind) -> Params:
    if kind == "bf16":
        return {name: exact.to(torch.bfloat16)}
    blocks = _blocks(exact)
    scales = (blocks.abs().amax(dim=1) / _MAX_LEVEL).to(torch.float32)
    # A block of zeros, or of entries so small that the scale is 0, is sent as zeros.
    divisors = torch.where(scales > 0, scales, torch.inf).to(exact.dtype)
    levels = (blocks / divisors[:, None]).round_().clamp_(-_MAX_LEVEL, _MAX_LEVEL).nan_to_num_(0.0)
    flat = levels.to(torch.int8).reshape(-1)[: exact.numel()]
    return {name: flat.reshape(exact.shape), name + _SCALES: scales}


def _dequantize(name: str, tensors: Params, dtype: torch.dtype) -> Tensor:
    rounded = tensors[name]
    if rounded.dtype is torch.bfloat16:
        return rounded.to(dtype)
    working = _working_dtype(dtype)
    blocks = _blocks(rounded.to(working)) * tensors[name + _SCALES].to(working)[:, None]
    return blocks.reshape(-1)[: rounded.numel()].reshape(rounded.shape).to(dtype)


def _blocks(tensor: Tensor) -> Tensor:
    """The entries as rows of BLOCK_SIZE, padded with zeros: [blocks, BLOCK_SIZE]."""
    num_blocks = math.ceil(tensor.numel() / BLOCK_SIZE)
    flat = torch.nn.functional.pad(tensor.reshape(-1), (0, num_blocks * BLOCK_SIZE - tensor.numel()))
    return flat.reshape(num_blocks, BLOCK_SIZE)
