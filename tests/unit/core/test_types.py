"""Episodes: mapping over tensors, and taking them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distmeta.core.types import Batch, Episode, Report, Term, Update


@pytest.fixture
def episode() -> Episode:
    support = Batch(torch.rand(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
    unlabelled = Term(Batch(torch.rand(2, 5, 3)), weight=0.5, objective="mse", adapted=False)
    return Episode(support, (Term(Batch(torch.rand(2, 5, 3), torch.ones(2, 5, dtype=torch.int64))), unlabelled))


def test_rebuild_is_the_inverse_of_tensors(episode: Episode) -> None:
    tensors = [tensor + 1 for tensor in episode.tensors()]
    rebuilt = episode.rebuild(tensors)
    assert len(tensors) == 5
    assert all(left is right for left, right in zip(rebuilt.tensors(), tensors, strict=True))
    assert rebuilt.form == episode.form
    assert [(term.weight, term.objective, term.adapted) for term in rebuilt.query] == [
        (1.0, "cross_entropy", True),
        (0.5, "mse", False),
    ]


def test_map_applies_to_every_tensor(episode: Episode) -> None:
    first = episode.map(lambda tensor: tensor[0])
    assert [tuple(tensor.shape) for tensor in first.tensors()] == [(4, 3), (4,), (5, 3), (5,), (5, 3)]
    assert episode.num_tasks == 2


def test_the_form_is_hashable_and_covers_all_but_the_tensors(episode: Episode) -> None:
    assert hash(episode.form) == hash(episode.map(torch.clone).form)
    labelled, unlabelled = episode.query
    changes = [
        replace(episode, support=Batch(episode.support.inputs)),
        replace(episode, query=(labelled,)),
        replace(episode, query=(replace(labelled, weight=2.0), unlabelled)),
        replace(episode, query=(replace(labelled, objective="mse"), unlabelled)),
        replace(episode, query=(replace(labelled, adapted=False), unlabelled)),
        replace(episode, query=(replace(labelled, batch=Batch(labelled.batch.inputs)), unlabelled)),
    ]
    assert len({changed.form for changed in [episode, *changes]}) == 7


def test_a_report_covers_consecutive_shards() -> None:
    assert list(Report(0, 4, Update({}, 1.0), count=3).shards) == [4, 5, 6]
