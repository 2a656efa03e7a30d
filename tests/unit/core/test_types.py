"""Episodes: mapping over tensors, and taking them apart."""

from __future__ import annotations

import pytest
import torch

from distmeta.core.types import QUERY, SOURCE, SUPPORT, Batch, Episode, Report, Update


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


def test_a_report_covers_consecutive_shards() -> None:
    assert list(Report(0, 4, Update({}, 1.0), count=3).shards) == [4, 5, 6]
