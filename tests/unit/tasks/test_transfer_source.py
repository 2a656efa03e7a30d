"""Transfer from one store to few labelled images of another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.config import TransferTasks
from distmeta.core.errors import UserError
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks.few_labels import divide
from distmeta.tasks.transfer import TransferSource

CLASSES, TRAIN, TEST = 3, 8, 4
ROLES = ("support", "query")


@pytest.fixture
def target(tmp_path: Path) -> ClassStore:
    """Three classes of twelve images of one number each, the row in the store; eight of a class are for training."""
    rows = np.arange(CLASSES * (TRAIN + TEST), dtype=np.uint8)
    return write_store(
        tmp_path / "target",
        np.broadcast_to(rows[:, None, None, None], (len(rows), 1, 4, 4)),
        class_names=list("abc"),
        class_counts=[TRAIN + TEST] * CLASSES,
        parts={"train": [TRAIN] * CLASSES, "test": [TEST] * CLASSES},
    )


@pytest.fixture
def wide(tmp_path: Path) -> ClassStore:
    """A source of five classes, six by five pixels, three channels."""
    images = np.full((50, 3, 6, 5), 100, dtype=np.uint8)
    return write_store(tmp_path / "wide", images, class_names=list("vwxyz"), class_counts=[10] * 5)


def transfer(store: ClassStore, target: ClassStore, seed: int = 0, **fields: object) -> TransferSource:
    config = TransferTasks.model_validate({"store": str(store.path), "target": str(target.path), **fields})
    return TransferSource(config, store, target, seed, torch.float32)


def rows_of(images: Tensor) -> list[list[int]]:
    """The rows [T, N] of images."""
    return (images[:, :, 0, 0, 0] * 255).round().long().tolist()


def test_target_and_source_of_one_store_have_no_image_in_common(target: ClassStore) -> None:
    source = transfer(target, target, examples=7, queries=3, source_batch=400)
    test = source.episodes(source.specs("test", 0, 1))
    (support,), (query,) = rows_of(test.support.inputs), rows_of(test.query.inputs)
    of_test = [label * (TRAIN + TEST) + TRAIN + i for label in range(CLASSES) for i in range(TEST)]
    assert query == of_test
    assert test.query.targets[0].tolist() == [row // (TRAIN + TEST) for row in of_test]
    assert (len(set(support)), not set(support) & set(query)) == (7, True)
    counts = np.bincount(test.support.targets[0].numpy())
    assert sorted(counts.tolist()) == [2, 2, 3]
    train = source.episodes(source.specs("train", 0, 30), ("support", "query", "source"))
    for fitted, judged in zip(rows_of(train.support.inputs), rows_of(train.query.inputs), strict=True):
        assert (len(set(fitted)), len(set(judged)), not set(fitted) & set(judged)) == (3, 3, True)
        assert {*fitted, *judged} <= set(support)
    assert len({tuple(rows) for rows in rows_of(train.support.inputs)}) > 20
    drawn = {row for rows in rows_of(train["source"].inputs) for row in rows}
    assert drawn == set(range(36)) - set(of_test) - set(support)


def test_labelled_images_are_drawn_by_the_runs_seed(target: ClassStore) -> None:
    def labelled(seed: int) -> set[int]:
        source = transfer(target, target, seed, examples=9)
        return set(rows_of(source.episodes(source.specs("test", 0, 1)).support.inputs)[0])

    assert labelled(0) == labelled(0)
    assert len({tuple(sorted(labelled(seed))) for seed in range(5)}) > 3


def test_folds_hold_out_each_labelled_image_once(target: ClassStore) -> None:
    source = transfer(target, target, examples=12, folds=4)
    episode = source.episodes(source.specs("val", 7, 8))
    every = set(rows_of(source.episodes(source.specs("test", 0, 1)).support.inputs)[0])
    fitted, held = rows_of(episode.support.inputs), rows_of(episode.query.inputs)
    assert all(set(a) | set(b) == every and not set(a) & set(b) for a, b in zip(fitted, held, strict=True))
    assert held[:4] == held[4:]
    assert {row for rows in held[:4] for row in rows} == every
    assert all(np.bincount(targets).tolist() == [1, 1, 1] for targets in episode.query.targets.tolist())


def test_fewer_queries_are_drawn(target: ClassStore) -> None:
    source = transfer(target, target, examples=6, eval_queries=5)
    queries = rows_of(source.episodes(source.specs("test", 0, 2)).query.inputs)
    assert all(len(set(rows)) == 5 and all(row % 12 >= TRAIN for row in rows) for rows in queries)
    assert queries[0] != queries[1]


def test_images_are_scaled_to_those_of_the_source(wide: ClassStore, target: ClassStore) -> None:
    source = transfer(wide, target, examples=6, test_share=0.25)
    assert (source.input_shape, source.num_outputs, source.train_outputs["source"]) == ((3, 6, 5), 3, 5)
    episode = source.episodes(source.specs("train", 0, 2), source.roles("train"))
    assert {batch.inputs.shape[2:] for batch in episode.roles.values()} == {(3, 6, 5)}
    rows = torch.tensor(rows_of(episode.support.inputs), dtype=torch.float32)[:, :, None, None, None]
    assert float((episode.support.inputs * 255 - rows).abs().max()) < 1e-4
    assert transfer(wide, target, examples=6, test_share=0.25, size=2).input_shape == (3, 2, 2)


def test_a_signature_tells_the_class_and_is_drawn_once_for_each_image(wide: ClassStore, target: ClassStore) -> None:
    fields = {"examples": 6, "test_share": 0.2, "source_batch": 500, "signature": 0.2}
    source = transfer(wide, target, **fields)
    batch = source.episodes(source.specs("train", 0, 4), ("source",))["source"]
    lower, labels = batch.inputs[:, :, :, 3:], batch.targets
    assert bool((batch.inputs[:, :, :, :3] * 255 - 100).abs().max() < 1e-4)
    for label in range(5):
        values = lower[labels == label]
        assert float(values.mean()) == pytest.approx(label / 5, abs=0.03)
        assert float(values.std()) == pytest.approx(0.2, abs=0.02)
    drawn = {tuple(image) for image in lower.flatten(0, 1).flatten(1).tolist()}
    assert len(drawn) == 40  # eight training images of each class
    again = transfer(wide, target, **fields)
    assert torch.equal(again.episodes(again.specs("train", 0, 4), ("source",))["source"].inputs, batch.inputs)
    assert torch.equal(
        source.episodes(source.specs("test", 0, 1)).query.inputs,
        transfer(wide, target, examples=6, test_share=0.2).episodes(source.specs("test", 0, 1)).query.inputs,
    )


def test_masked_queries_have_an_upper_half(target: ClassStore) -> None:
    source = transfer(target, target, examples=6)
    episode = source.episodes(source.specs("test", 0, 1), ("query", "masked"))
    masked, query = episode["masked"], episode.query
    assert torch.equal(masked.inputs[..., :2, :], query.inputs[..., :2, :])
    assert not masked.inputs[..., 2:, :].any()
    assert torch.equal(masked.targets, query.targets)
    assert "masked" not in source.roles("train")


def test_turned_images_are_labelled_ones(target: ClassStore, wide: ClassStore) -> None:
    source = transfer(target, target, examples=6, source_batch=200)
    (labelled,) = rows_of(source.episodes(source.specs("test", 0, 1)).support.inputs)
    turned = source.episodes(source.specs("train", 0, 2), ("rotation",))["rotation"]
    assert {row for rows in rows_of(turned.inputs) for row in rows} == set(labelled)
    assert set(turned.targets.flatten().tolist()) == {0, 1, 2, 3}
    assert source.train_outputs["rotation"] == 4
    assert "rotation" not in source.roles("test")
    assert "rotation" not in transfer(wide, target, examples=6, test_share=0.25).roles("train")  # six by five pixels


def test_what_cannot_be_divided_is_refused(wide: ClassStore, target: ClassStore, vectors: ClassStore) -> None:
    with pytest.raises(UserError, match=r"tasks\.store: data 'wide' does not tell which .* allowed: tasks\.test_share"):
        transfer(wide, target, examples=6)
    with pytest.raises(UserError, match=r"tasks\.examples: 30 labelled examples of data 'target'.*8 example"):
        transfer(target, target, examples=30)
    with pytest.raises(UserError, match=r"tasks\.target: data 'vectors' holds vector"):
        transfer(target, vectors, examples=6)
    with pytest.raises(UserError, match=r"training examples of data 'wide'.*class 'v' has 0 examples"):
        divide(wide, 0.99, "tasks.store")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"support": 6, "queries": 5}, "support 6 and queries 5 are not parts of 10 examples"),
        ({"support": 10}, "support 10 and queries 0 are not parts"),
        ({"folds": 11}, "folds 11 of 10 examples"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferTasks.model_validate({"examples": 10, **fields})
