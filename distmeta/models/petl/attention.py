"""Attention by its definition, with prefixes: differentiable twice, and known to `vmap`, which fused kernels are not.

Shapes: B texts, H heads, L tokens, V positions of the prefix, D numbers a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distmeta.models.petl.call import Prefix, current

NAME = "distmeta"
"""Under which `transformers` finds it."""
BLOCK = "distmeta_block"
"""Attribute of a module that holds the number of its block."""


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """What `transformers` calls in each block: [B, H, L, D] queries -> [B, L, H, D].

    The mask is that of the call: every block has the same. There is no dropout.
    """
    call = current()
    groups = query.shape[1] // key.shape[1]
    prefix = call.prefixes.get(getattr(module, BLOCK)) if call.prefixes else None
    extra = None if prefix is None or prefix.gate is None else _gated(query, prefix, scaling, groups)
    mask = call.mask
    if prefix is not None and prefix.gate is None:
        key = torch.cat((_for_all(prefix.keys, key), key), dim=-2)
        value = torch.cat((_for_all(prefix.values, value), value), dim=-2)
        if mask is not None:
            mask = torch.cat((mask.new_zeros(*mask.shape[:-1], len(prefix.keys)), mask), dim=-1)
    output = _weighted(query, _repeat(key, groups), _repeat(value, groups), mask, scaling)
    if extra is not None:
        output = output + extra
    return output.transpose(1, 2), None


def _gated(query: Tensor, prefix: Prefix, scaling: float, groups: int) -> Tensor:
    """tanh(gate) times the attention to the prefix alone."""
    assert prefix.gate is not None
    keys, values = (_repeat(tensor.movedim(1, 0)[None], groups) for tensor in (prefix.keys, prefix.values))
    return torch.tanh(prefix.gate)[:, None, None] * _weighted(query, keys, values, None, scaling)


def _weighted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    logits = query @ key.transpose(-1, -2) * scaling
    if mask is not None:
        logits = logits + mask
    weights = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return torch.softmax(weights, dim=-1).to(query.dtype) @ value


def _for_all(prefix: Tensor, like: Tensor) -> Tensor:
    """[V, H, D] -> [B, H, V, D]."""
    return prefix.movedim(1, 0).to(like.dtype).expand(like.shape[0], -1, -1, -1)


def _repeat(tensor: Tensor, groups: int) -> Tensor:
    """Heads of keys that several heads of queries share: [B, H, L, D] -> [B, H * groups, L, D]."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)
