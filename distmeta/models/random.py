"""Random layers whose draws are a pure function of a seed: the same bits on every worker and under every strategy.

The hash is SplitMix64 (Steele, Lea & Flood 2014) on int64 tensors: torch's generators give other numbers under `vmap`,
in compiled code and on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_BITS = 24  # of a uniform number: exact in float32


def mix_seed(seed: Tensor, stream: int) -> Tensor:
    """Seeds of another stream: int64, of the shape of `seed`."""
    return _splitmix64(seed ^ _splitmix64(torch.full_like(seed, stream)))


def uniform(seed: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uniform numbers in [0, 1) of 24 bits, for one seed [].

    Args:
        seed: int64 [].
        stream: Number of the draw; different streams are independent.
        shape: Shape of the result.
        dtype: Its type.
    """
    counters = torch.arange(torch.Size(shape).numel(), device=seed.device)
    bits = _splitmix64(mix_seed(seed, stream) + counters)
    return (_shift_right(bits, 64 - _BITS).to(dtype) * 2.0**-_BITS).reshape(shape)


def dropout(x: Tensor, p: float, seed: Tensor, stream: int, spatial: int = 0) -> Tensor:
    """Zero each entry with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    Args:
        x: [B, ...].
        p: Probability.
        seed: int64 [].
        stream: Number of the draw.
        spatial: Number of trailing axes whose entries are zeroed together.
    """
    shape = (*x.shape[: x.dim() - spatial], *([1] * spatial))
    keep = uniform(seed, stream, shape, x.dtype) >= p
    return torch.where(keep, x / (1 - p), torch.zeros_like(x))


def _splitmix64(state: Tensor) -> Tensor:
    z = state + _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Logical shift of 64-bit words, which torch's is not: it copies the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)
