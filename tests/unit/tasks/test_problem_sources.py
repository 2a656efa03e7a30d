"""Optimisation problems as tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.core.errors import UserError
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks.problems import DatasetSource, QuadraticSource


def test_quadratics_are_normal_and_the_same_in_both_roles() -> None:
    source = QuadraticSource(QuadraticTasks(size=3, rows=4), 0, torch.float64)
    episode = source.episodes(source.specs("train", 0, 2000))
    assert torch.equal(episode.support.inputs, episode.query.inputs)
    assert torch.equal(episode.support.targets, episode.query.targets)
    assert (episode.support.inputs.shape, episode.support.targets.shape) == ((2000, 4, 3), (2000, 4, 1))
    values = torch.cat((episode.support.inputs, episode.support.targets), -1).flatten(0, 1)
    assert float((values.T @ values / len(values) - torch.eye(4)).abs().max()) < 0.06


def dataset(store: ClassStore, seed: int = 0, **fields: object) -> DatasetSource:
    config = DatasetTasks.model_validate({"store": str(store.path), **fields})
    return DatasetSource(config, store, seed, torch.float32)


def test_splits_have_examples_of_their_own_of_every_class(store: ClassStore) -> None:
    source = dataset(store, examples=400, queries=300, eval_queries=350)
    drawn = {}
    for split, queries in (("train", 300), ("val", 350), ("test", 350)):
        episode = source.episodes(source.specs(split, 0, 3))
        assert (episode.support.inputs.shape, episode.query.inputs.shape[1]) == ((3, 400, 1, 4, 4), queries)
        pixels = (torch.cat((episode.support.inputs, episode.query.inputs), 1) * 255).round().long()[:, :, 0, 0, :2]
        labels = torch.cat((episode.support.targets, episode.query.targets), 1)
        assert torch.equal(pixels[..., 0] - 1, labels)
        drawn[split] = {tuple(pair) for pair in pixels.flatten(0, 1).tolist()}
        assert {row for row, _ in drawn[split]} == set(range(1, 13))
    assert not drawn["train"] & drawn["val"]
    assert not drawn["test"] & (drawn["train"] | drawn["val"])


def test_a_task_depends_on_its_seed_alone(store: ClassStore) -> None:
    source = dataset(store, examples=20)
    specs = source.specs("train", 0, 4)
    together, alone = source.episodes(specs), source.episodes(specs[2:3])
    assert torch.equal(together.support.inputs[2:3], alone.support.inputs)
    assert not torch.equal(together.support.inputs[0], together.support.inputs[1])


def test_what_cannot_be_divided_is_refused(store: ClassStore, vectors: ClassStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds vector; allowed: a store of images; tasks\.source 'vectors'"):
        dataset(vectors)
    few = write_store(
        tmp_path / "few",
        np.zeros((9, 1, 4, 4), dtype=np.uint8),
        class_names=["a", "b"],
        class_counts=[5, 4],
        splits={"all": {"train": [0, 1], "val": [], "test": []}},
    )
    with pytest.raises(UserError, match=r"tasks of data 'few': .*class 'b'"):
        dataset(few)
