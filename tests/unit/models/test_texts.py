"""Texts end to end compute what texts in rows compute, without their padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distmeta.models.petl.texts import Texts, lay_out, places_for, row_width

PAD, LENGTH, WIDTH = 7, 6, 5
WIDE = row_width(LENGTH)
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
    return torch.softmax(x @ x.transpose(-1, -2) + texts.mask[:, 0], -1) @ x


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, LENGTH), min_size=1, max_size=40),
    spare=st.integers(0, 2),
    causal=st.booleans(),
    pooling=st.sampled_from(["mean", "cls", "last"]),
)
def test_end_to_end_is_the_same_as_in_rows(counts: list[int], spare: int, causal: bool, pooling: str) -> None:
    ids, options = ids_of(counts), {"causal": causal, "dtype": torch.float64}
    rows, texts = (lay_out(ids, PAD, places, **options) for places in (None, places_for(counts, LENGTH) + spare * WIDE))
    assert (texts.ids != PAD).sum() == sum(counts)
    expected, found = rows.pool(attended(rows), pooling), texts.pool(attended(texts), pooling)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_rows_are_as_many_as_texts_need_one_after_the_other(counts: list[int]) -> None:
    places, width = places_for(counts, 64), row_width(64)
    ids = torch.zeros(len(counts), 64, dtype=torch.int64)
    for row, count in enumerate(counts):
        ids[row, :count] = row + 1
    texts = lay_out(ids, 0, places, causal=False, dtype=torch.float32)
    assert texts.ids.shape == (places // width, width) and bool((texts.ids[-1] != 0).any())
    for row, count in enumerate(counts):
        rows, columns = torch.nonzero(texts.ids == row + 1, as_tuple=True)
        assert len(rows) == count and len(set(rows.tolist())) == 1, "a text is in one row, whole"
        assert torch.equal(columns, columns[0] + torch.arange(count))
        assert texts.positions[rows, columns].tolist() == list(range(count))


@pytest.mark.parametrize("places", [None, 64])
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
        texts = lay_out(ids, PAD, WIDE, causal=True, dtype=torch.float64)
        return texts.pool(attended(texts), "last")

    torch.testing.assert_close(torch.vmap(pooled)(ids), torch.stack([pooled(each) for each in ids]))
