"""Episodes: mapping over tensors, and taking them apart."""

from __future__ import annotations

import pytest
import torch

from distmeta.core.types import QUERY, SOURCE, SUPPORT, Batch, Episode, Report, TextSizes, Update


@pytest.fixture
def episode() -> Episode:
    support = Batch(torch.rand(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
    query = Batch(torch.rand(2, 5, 3), torch.ones(2, 5, dtype=torch.int64), mask=torch.ones(2, 5, dtype=torch.bool))
    return Episode({SUPPORT: support, QUERY: query, SOURCE: Batch(torch.rand(2, 6, 3))}, torch.tensor([7, 8]))


def test_rebuild_is_the_inverse_of_tensors(episode: Episode) -> None:
    tensors = [tensor + 1 for tensor in episode.tensors()]
    rebuilt = episode.rebuild(tensors)
    assert len(tensors) == 7
    assert all(left is right for left, right in zip(rebuilt.tensors(), tensors, strict=True))
    assert rebuilt.form == episode.form
    assert list(rebuilt.roles) == [SUPPORT, QUERY, SOURCE]
    assert list(rebuilt.query) == ["inputs", "targets", "mask"]
    assert rebuilt[SOURCE].targets is None
    assert rebuilt.query.rebuild(rebuilt.query.tensors()) == rebuilt.query


def test_map_applies_to_every_tensor(episode: Episode) -> None:
    first = episode.map(lambda tensor: tensor[0])
    shapes = [(4, 3), (4,), (5, 3), (5,), (5,), (6, 3), ()]
    assert [tuple(tensor.shape) for tensor in first.tensors()] == shapes
    assert isinstance(first.query, Batch) and list(first.query) == list(episode.query)
    assert episode.num_tasks == 2


def test_the_form_is_hashable_and_covers_all_but_the_tensors(episode: Episode) -> None:
    assert hash(episode.form) == hash(episode.map(torch.clone).form)
    query = episode.query
    changes = [
        Episode({**episode.roles, SUPPORT: Batch(episode.support.inputs)}, episode.seeds),
        Episode({**episode.roles, QUERY: Batch(query.inputs, query.targets)}, episode.seeds),
        Episode({**episode.roles, QUERY: Batch(query.inputs, query.targets, weight=query["mask"])}, episode.seeds),
        Episode(episode.roles),
        episode.only((SUPPORT, QUERY)),
        episode.only((SUPPORT, SOURCE)),
    ]
    assert len({changed.form for changed in [episode, *changes]}) == 7


def test_only_keeps_roles_in_their_order(episode: Episode) -> None:
    kept = episode.only((SOURCE, SUPPORT, "unlabelled"))
    assert list(kept.roles) == [SUPPORT, SOURCE]
    assert kept.seeds is episode.seeds and kept.support is episode.support


SHORT, LONG = TextSizes(2, ((SUPPORT, 4),)), TextSizes(3, ((SUPPORT, 6),))


def padded(episode: Episode) -> Episode:
    return Episode(episode.roles, episode.seeds, (SHORT, LONG))


def test_sizes_are_kept_and_belong_to_the_form(episode: Episode) -> None:
    long = padded(episode)
    assert long.form != episode.form and len(long.tensors()) == len(episode.tensors())
    assert long.select([0]).form == long.select([0, 0]).form != long.select([1]).form
    assert long.map(torch.clone).sizes == long.only((SUPPORT,)).sizes == (SHORT, LONG)
    assert long.rebuild(long.tensors()).sizes == (SHORT, LONG)
    assert episode.map(torch.clone).sizes is None


def test_select_takes_tasks_in_the_given_order(episode: Episode) -> None:
    chosen = episode.select([1, 0, 1])
    assert chosen.sizes is None and chosen.form == episode.form
    for before, after in zip(episode.tensors(), chosen.tensors(), strict=True):
        assert torch.equal(after, before[[1, 0, 1]])


def test_select_cuts_texts_to_the_longest_task(episode: Episode) -> None:
    long = padded(episode)
    mixed = long.select([1, 0])
    assert mixed.sizes == (LONG, SHORT)
    assert torch.equal(mixed.support.inputs, episode.support.inputs.flip(0))
    short = long.select([0, 0])
    assert short.sizes == (SHORT, SHORT)
    assert list(short.query) == ["inputs", "targets", "mask"]
    assert torch.equal(short.query.inputs, episode.query.inputs[[0, 0], :, :2])
    assert short.query.inputs.is_contiguous()
    assert torch.equal(short.query["mask"], episode.query["mask"][[0, 0]])
    assert torch.equal(short.seeds, episode.seeds[[0, 0]])
    assert torch.equal(long.support.inputs, episode.support.inputs), "the episode itself is unchanged"


def test_a_report_covers_consecutive_shards() -> None:
    assert list(Report(0, 4, Update({}, 1.0), count=3).shards) == [4, 5, 6]
