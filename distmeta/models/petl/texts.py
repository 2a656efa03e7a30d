"""How the tokens of texts lie in a forward pass: a row for each text, or all texts end to end without their padding.

Most places of padded texts are padding. End to end, every layer but the attention computes the tokens alone; in the
attention, tokens see those of their own text. Where the row is much longer than a text, a block of queries sees its own
block of keys and the two beside it, which hold all of its texts.

Shapes: B texts, L tokens at most in each, M places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOWS = 4
"""Row length, in longest texts, from which blocks see only their neighbours."""


@dataclass(frozen=True)
class Texts:
    """Texts, laid out.

    Attributes:
        ids: int64 [B, L] or [1, M] token ids.
        positions: int64, of the same shape: the place of each token in its text.
        mask: What is added to attention logits: [B, 1, L or 1, L], [1, 1, M, M] or, with a window [1, 1, M / L, L, 3L].
        window: L where blocks of L queries see three blocks of keys; None where all queries see all keys.
        pool: (hidden states of the tokens, pooling) -> [B, D].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    window: int | None
    pool: Callable[[Tensor, str], Tensor]


def places_for(tokens: int) -> int:
    """The number of places for texts of so many tokens: one of few numbers, at most half as many again.

    32, 64, 96, 128, 192, 256, 384, 512, 768, ...
    """
    if tokens <= 96:
        return max(32, -(-tokens // 32) * 32)
    power = 1 << (tokens - 1).bit_length()
    return power * 3 // 4 if tokens <= power * 3 // 4 else power


def lay_out(ids: Tensor, pad_id: int, places: int | None, *, causal: bool, dtype: torch.dtype) -> Texts:
    """Lay out texts.

    Args:
        ids: int64 [B, L], padded on the right.
        pad_id: Id of padding.
        places: M, at least the number of tokens; None for a row for each text.
        causal: Whether tokens see only those before them.
        dtype: Type of the mask.
    """
    keep = ids != pad_id
    if places is None:
        return _in_rows(ids, keep, causal=causal, dtype=dtype)
    return _end_to_end(ids, keep, pad_id, places, causal=causal, dtype=dtype)


def _in_rows(ids: Tensor, keep: Tensor, *, causal: bool, dtype: torch.dtype) -> Texts:
    length = ids.shape[-1]
    positions = torch.arange(length, device=ids.device)
    seen = keep[:, None, None, :]
    if causal:
        seen = seen & (positions[None, :] <= positions[:, None])
    counts = keep.sum(-1)

    def pool(hidden: Tensor, pooling: str) -> Tensor:
        if pooling == "cls":
            return hidden[:, 0]
        if pooling == "mean":
            weights = keep.to(hidden.dtype)
            return (weights[:, None, :] @ hidden)[:, 0] / counts.clamp(min=1)[:, None].to(hidden.dtype)
        is_last = (positions == (counts - 1).clamp(min=0)[:, None]).to(hidden.dtype)
        return (is_last[:, None, :] @ hidden)[:, 0]

    return Texts(ids, positions.expand(1, -1), _as_mask(seen, dtype), None, pool)


def _end_to_end(ids: Tensor, keep: Tensor, pad_id: int, places: int, *, causal: bool, dtype: torch.dtype) -> Texts:
    num_texts, length = ids.shape
    window = length if places > WINDOWS * length else None
    places = min(places, num_texts * length)
    # Tokens first, in their order: a stable sort of what is padding.
    order = torch.sort((~keep).flatten().to(torch.int8), stable=True)[1][:places]
    is_token = keep.flatten()[order]
    tokens = torch.where(is_token, ids.flatten()[order], pad_id)
    owner = torch.where(is_token, order // length, -1)
    positions = torch.where(is_token, order % length, 0)
    counts = keep.sum(-1)

    def pool(hidden: Tensor, pooling: str) -> Tensor:
        is_own = owner[None, :] == torch.arange(num_texts, device=ids.device)[:, None]
        if pooling != "mean":
            wanted = 0 if pooling == "cls" else (counts - 1).clamp(min=0)[:, None]
            is_own = is_own & (positions[None, :] == wanted)
        pooled = is_own.to(hidden.dtype) @ hidden[0]
        return pooled / counts.clamp(min=1)[:, None].to(hidden.dtype) if pooling == "mean" else pooled

    seen = _seen(owner, positions, window, causal=causal)
    return Texts(tokens[None], positions[None], _as_mask(seen, dtype)[None, None], window, pool)


def _seen(owner: Tensor, positions: Tensor, window: int | None, *, causal: bool) -> Tensor:
    """Which keys each query sees: [M, M], or [blocks, L, 3 L]."""
    keys, places = owner, positions
    if window is not None:
        owner, keys = blocks(owner, window, -2)[..., None], neighbours(blocks(owner, window, -2), -1)[..., None, :]
        positions = blocks(positions, window, 0)
        places = neighbours(positions, -1)[..., None, :]
        positions = positions[..., None]
    else:
        owner, positions = owner[:, None], positions[:, None]
    seen = owner == keys
    return seen & (places <= positions) if causal else seen


def blocks(x: Tensor, size: int, fill: int) -> Tensor:
    """Cut the last axis into blocks: [..., M] -> [..., blocks, size], filled up at the end."""
    missing = -x.shape[-1] % size
    x = torch.nn.functional.pad(x, (0, missing), value=fill) if missing else x
    return x.reshape(*x.shape[:-1], -1, size)


def neighbours(x: Tensor, fill: int) -> Tensor:
    """Each block with the ones before and behind it: [..., blocks, size] -> [..., blocks, 3 * size]."""
    edge = torch.full_like(x[..., :1, :], fill)
    before, behind = torch.cat((edge, x[..., :-1, :]), -2), torch.cat((x[..., 1:, :], edge), -2)
    return torch.cat((before, x, behind), -1)


def _as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)
