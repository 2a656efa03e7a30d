"""Chunks of tasks of texts: one size in each, and everything back in the order of the shard."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, TextSizes
from distmeta.engine.chunks import cut, in_order
from distmeta.methods.estimators.base import Moment

SIZES = [TextSizes(4, ((SUPPORT, 8),)), TextSizes(6, ((SUPPORT, 8),)), TextSizes(6, ((SUPPORT, 12),))]


def shard(kinds: list[int]) -> Episode:
    """Tasks whose token ids are their number, padded with zeros to the longest task."""
    sizes = tuple(SIZES[kind] for kind in kinds)
    width = max(size.length for size in sizes)
    ids = torch.zeros(len(kinds), 2, width, dtype=torch.int64)
    for task, size in enumerate(sizes):
        ids[task, :, : size.length] = task + 1
    batch = Batch(ids, torch.arange(len(kinds))[:, None].expand(-1, 2))
    return Episode({SUPPORT: batch, QUERY: batch}, torch.arange(len(kinds)), sizes)


@settings(max_examples=100, deadline=None)
@given(kinds=st.lists(st.integers(0, 2), min_size=1, max_size=9), size=st.none() | st.integers(1, 4))
def test_a_chunk_has_tasks_of_one_size(kinds: list[int], size: int | None) -> None:
    episodes = shard(kinds)
    moment = Moment(3, episodes.seeds, {"carry": torch.arange(len(kinds)) * 10})
    chunks = cut(episodes, size)
    assert sorted(task for chunk in chunks for task in chunk.tasks) == list(range(len(kinds)))
    for chunk in chunks:
        assert size is None or len(chunk.tasks) <= size
        assert chunk.episodes.sizes is not None and len(set(chunk.episodes.sizes)) == 1
        length = chunk.episodes.sizes[0].length
        assert chunk.episodes.support.inputs.shape == (len(chunk.tasks), 2, length)
        assert bool((chunk.episodes.support.inputs != 0).all()), "no padding is left"
        part = chunk.moment(moment)
        assert part.seeds is not None and part.seeds.tolist() == list(chunk.tasks)
        assert part.carry is not None and part.carry["carry"].tolist() == [10 * task for task in chunk.tasks]
    numbers = in_order(chunks, [chunk.episodes.support.inputs[:, 0, 0] for chunk in chunks])
    assert numbers.tolist() == [task + 1 for task in range(len(kinds))]


def test_other_tasks_are_cut_without_a_copy() -> None:
    inputs = torch.arange(10.0).reshape(5, 2, 1)
    chunks = cut(Episode({SUPPORT: Batch(inputs)}), 2)
    assert [list(chunk.tasks) for chunk in chunks] == [[0, 1], [2, 3], [4]]
    storages = {chunk.episodes.support.inputs.untyped_storage().data_ptr() for chunk in chunks}
    assert storages == {inputs.untyped_storage().data_ptr()}
