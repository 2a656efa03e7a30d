"""How the tokens of texts lie in a forward pass: a row for each text, or several texts end to end in each row.

Most places of padded texts are padding. End to end, a text begins where the one before it ends, or in the next row if
it does not fit; in the attention, tokens see those of their own text alone.

Shapes: B texts, L tokens at most in each, R rows of W places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """Texts, laid out.

    Attributes:
        ids: int64 [B, L] or [R, W] token ids.
        positions: int64 [1, L] or [R, W]: the place of each token in its text.
        mask: What is added to attention logits: [B, 1, L or 1, L], or [R, 1, W, W].
        pool: (hidden states of the tokens, pooling) -> [B, D].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    pool: Callable[[Tensor, str], Tensor]


def lay_out(ids: Tensor, pad_id: int, places: int | None, *, causal: bool, dtype: torch.dtype) -> Texts:
    """Lay out texts.

    Args:
        ids: int64 [B, L], padded on the right.
        pad_id: Id of padding.
        places: R W (see `places_for`); None for a row for each text.
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

    return Texts(ids, positions.expand(1, -1), _as_mask(seen, dtype), pool)


def _end_to_end(ids: Tensor, keep: Tensor, pad_id: int, places: int, *, causal: bool, dtype: torch.dtype) -> Texts:
    num_texts, length = ids.shape
    width = row_width(length)
    num_rows = -(-places // width)
    counts = keep.sum(-1)
    slots = _slots(counts, num_rows, width)
    place = torch.arange(num_rows * width, device=ids.device)
    owner = (slots[None, :] <= place[:, None]).sum(1) - 1
    position = place - slots[owner]
    is_token = position < counts[owner]
    tokens = torch.where(is_token, ids.flatten()[owner * length + position.clamp(max=length - 1)], pad_id)
    position = torch.where(is_token, position, 0).reshape(num_rows, width)
    owner = torch.where(is_token, owner, -1).reshape(num_rows, width)
    seen = owner[:, :, None] == owner[:, None, :]
    if causal:
        seen = seen & (position[:, None, :] <= position[:, :, None])

    def pool(hidden: Tensor, pooling: str) -> Tensor:
        is_own = owner.flatten()[None, :] == torch.arange(num_texts, device=ids.device)[:, None]
        if pooling != "mean":
            wanted = 0 if pooling == "cls" else (counts - 1).clamp(min=0)[:, None]
            is_own = is_own & (position.flatten()[None, :] == wanted)
        pooled = is_own.to(hidden.dtype) @ hidden.flatten(0, 1)
        return pooled / counts.clamp(min=1)[:, None].to(hidden.dtype) if pooling == "mean" else pooled

    return Texts(tokens.reshape(num_rows, width), position, _as_mask(seen[:, None], dtype), pool)


def _slots(counts: Tensor, num_rows: int, width: int) -> Tensor:
    """The place [B] of the first token of each text; a text that does not fit into a row begins the next."""
    ends = counts.cumsum(0)
    before = [ends.new_zeros(())]  # tokens before each row
    for _ in range(1, num_rows):
        before.append(torch.where(ends <= before[-1] + width, ends, 0).amax())
    firsts, starts = torch.stack(before), ends - counts
    row = (starts[:, None] >= firsts[None, :]).sum(1) - 1
    return row * width + starts - firsts[row]


def row_width(length: int) -> int:
    """W for texts of so many tokens at most: long enough that little of a row stays empty."""
    return max(64, -(-3 * length // 64) * 32)


def places_for(counts: Sequence[int], length: int) -> int:
    """R W for texts of so many tokens each, in their order; `length` is L."""
    width = row_width(length)
    rows, used = 1, 0
    for count in counts:
        rows, used = (rows, used + count) if used + count <= width else (rows + 1, count)
    return rows * width


def _as_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)
