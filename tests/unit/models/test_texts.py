"""Texts end to end compute what texts in rows compute, without their padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distmeta.models.petl.texts import WINDOWS, Texts, lay_out

PAD, LENGTH, WIDTH = 7, 6, 5
TOKENS = torch.randn(PAD + 1, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PLACES = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def ids_of(counts: list[int], seed: int = 0) -> Tensor:
    """Texts of so many tokens; the id of padding is none of theirs."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.full((len(counts), LENGTH), PAD)
    for row, count in enumerate(counts):
        ids[row, :count] = torch.randint(PAD, (count,), generator=rng)
    return ids


def attended(texts: Texts) -> Tensor:
    """One layer of attention whose keys, queries and values are functions of ids and positions."""
    x = TOKENS[texts.ids] + PLACES[texts.positions]
    if texts.window is None:
        return torch.softmax(x @ x.transpose(-1, -2) + texts.mask[:, 0], -1) @ x
    size = texts.window
    padded = torch.nn.functional.pad(x[0], (0, 0, size, size + -len(x[0]) % size))
    blocks = [
        torch.softmax(padded[i + size : i + 2 * size] @ padded[i : i + 3 * size].T + texts.mask[0, 0, i // size], -1)
        @ padded[i : i + 3 * size]
        for i in range(0, len(x[0]), size)
    ]
    return torch.cat(blocks)[None, : len(x[0])]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, LENGTH), min_size=1, max_size=14),
    spare=st.integers(0, 20),
    causal=st.booleans(),
    pooling=st.sampled_from(["mean", "cls", "last"]),
)
def test_end_to_end_is_the_same_as_in_rows(counts: list[int], spare: int, causal: bool, pooling: str) -> None:
    ids, options = ids_of(counts), {"causal": causal, "dtype": torch.float64}
    rows, texts = (lay_out(ids, PAD, places, **options) for places in (None, sum(counts) + spare))
    assert (texts.ids != PAD).sum() == sum(counts)
    expected, found = rows.pool(attended(rows), pooling), texts.pool(attended(texts), pooling)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_long_rows_have_windows() -> None:
    places = WINDOWS * LENGTH + 1
    texts = lay_out(ids_of([LENGTH] * 5), PAD, places, causal=False, dtype=torch.float32)
    assert texts.window == LENGTH and texts.mask.shape == (1, 1, 5, LENGTH, 3 * LENGTH)
    short = lay_out(ids_of([LENGTH] * 4), PAD, places - 1, causal=False, dtype=torch.float32)
    assert short.window is None and short.mask.shape == (1, 1, 24, 24)


@pytest.mark.parametrize("places", [None, 30])
def test_padding_changes_nothing(places: int | None) -> None:
    """A text's features depend on its own tokens alone, not on its neighbours nor on the width of the batch."""
    counts = [3, 1, 5, 2]
    ids = ids_of(counts)
    texts = lay_out(ids, PAD, places, causal=False, dtype=torch.float64)
    together = texts.pool(attended(texts), "mean")
    for row in range(len(counts)):
        alone = lay_out(ids[row : row + 1, : counts[row]], PAD, None, causal=False, dtype=torch.float64)
        torch.testing.assert_close(alone.pool(attended(alone), "mean")[0], together[row], rtol=1e-12, atol=1e-12)


def test_layouts_of_several_tasks_under_vmap() -> None:
    ids = torch.stack([ids_of([2, 6, 1, 3], seed) for seed in range(3)])

    def pooled(ids: Tensor) -> Tensor:
        texts = lay_out(ids, PAD, 16, causal=True, dtype=torch.float64)
        return texts.pool(attended(texts), "last")

    torch.testing.assert_close(torch.vmap(pooled)(ids), torch.stack([pooled(each) for each in ids]))
