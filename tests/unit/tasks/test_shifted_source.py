"""All classes of a store, under a shift at evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.config.shifts import Augmentation, ShiftedTasks
from distmeta.core.errors import UserError
from distmeta.core.types import DOMAINS, QUERY, ROTATION, SUPPORT, UNLABELLED, Episode
from distmeta.data.corruptions import corrupt
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks.shifted import ShiftedSource, augmented
from distmeta.tasks.turned import turned, turned_by

CLASSES, EACH, SIDE = 4, 30, 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClassStore:
    """Images of noise; pixel (8, 0) holds the class + 1, (8, 1) the example + 1."""
    images = np.random.default_rng(0).integers(0, 200, (CLASSES * EACH, 1, SIDE, SIDE), dtype=np.uint8)
    images[:, 0, 8, 0] = np.repeat(np.arange(CLASSES), EACH) + 1
    images[:, 0, 8, 1] = np.tile(np.arange(EACH), CLASSES) + 1
    folder, names = tmp_path_factory.mktemp("stores") / "noise", [f"class{index}" for index in range(CLASSES)]
    return write_store(folder, images, class_names=names, class_counts=[EACH] * CLASSES, splits={"x": {}})


def source(store: ClassStore, **fields: Any) -> ShiftedSource:
    config = ShiftedTasks.model_validate(
        {"shares": (0.5, 0.2, 0.3), "examples": 6, "queries": 8, "eval_queries": 12} | fields
    )
    return ShiftedSource(config, store, 0, torch.float64)


def episode(source: ShiftedSource, split: str, count: int = 2, roles: tuple[str, ...] | None = None) -> Episode:
    return source.episodes(source.specs(split, 0, count), roles or source.roles(split))


def pixels(inputs: torch.Tensor) -> torch.Tensor:
    return (inputs * 255).round().to(torch.uint8)


def codes(inputs: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(each) for each in pixels(inputs)[..., 0, 8, :2].flatten(0, -2).tolist()}  # type: ignore[misc]


def test_splits_and_roles_share_no_example(store: ClassStore) -> None:
    tasks = source(store)
    drawn = {}
    for split in ("train", "val", "test"):
        one = episode(tasks, split, 1)
        support, query = codes(one.support.inputs), codes(one.query.inputs)
        assert len(support) == 6 and len(query) == (8 if split == "train" else 12)
        assert not support & query
        labels = pixels(one.query.inputs)[0, :, 0, 8, 0].long() - 1
        assert torch.equal(labels, one.query.targets[0])
        every = episode(tasks, split, 30)
        drawn[split] = codes(every.query.inputs) | codes(every.support.inputs)
    assert [sorted({example for _, example in drawn[split]}) for split in drawn] == [
        list(range(1, 16)),
        list(range(16, 22)),
        list(range(22, 31)),
    ]


def test_unlabelled_examples_are_the_queries_at_evaluation_and_others_in_training(store: ClassStore) -> None:
    tasks = source(store, shift={"kind": "corruption", "names": ["contrast"]})
    test, train = episode(tasks, "test"), episode(tasks, "train")
    assert torch.equal(test[UNLABELLED].inputs, test.query.inputs)
    assert test[UNLABELLED].targets is None and train[UNLABELLED].targets is None
    assert train[UNLABELLED].inputs.shape == train.query.inputs.shape
    assert float(train[UNLABELLED].inputs.std()) < 0.3 * float(train.query.inputs.std())  # training queries are clean


def test_domains_are_labelled_and_unlabelled_examples(store: ClassStore) -> None:
    tasks = source(store, shift={"kind": "corruption", "names": ["contrast"]})
    for split, labelled, unlabelled in (("train", QUERY, UNLABELLED), ("test", SUPPORT, QUERY)):
        one = episode(tasks, split)
        first, second = one[labelled].inputs, one[unlabelled].inputs
        assert torch.equal(one[DOMAINS].inputs, torch.cat((first, second), 1))
        assert one[DOMAINS].targets.tolist() == 2 * [[0] * first.shape[1] + [1] * second.shape[1]]
    assert tasks.train_outputs[DOMAINS] == 2


def test_turned_images(store: ClassStore) -> None:
    tasks = source(store)
    test, train = episode(tasks, "test"), episode(tasks, "train")
    assert tasks.train_outputs[ROTATION] == 4
    assert torch.equal(test[ROTATION].inputs[:, ::4], test.query.inputs)
    assert torch.equal(test[ROTATION].inputs[1, 7], torch.rot90(test.query.inputs[1, 1], 3, (-2, -1)))
    assert test[ROTATION].targets.tolist() == 2 * [12 * [0, 1, 2, 3]]
    turns = train[ROTATION].targets
    assert turns.shape == (2, 8) and len(turns.unique()) > 1
    assert torch.equal(turned_by(train.query.inputs, turns).inputs, train[ROTATION].inputs)
    assert turned(train.query.inputs[0]).inputs.shape == (32, 1, SIDE, SIDE)


def test_a_corrupted_image_is_the_same_in_every_task(store: ClassStore) -> None:
    names = ["gaussian_noise", "brightness"]
    tasks = source(store, shift={"kind": "corruption", "names": names, "severity": 4})
    plain = episode(source(store), "test", 40).query.inputs
    noisy = episode(tasks, "test", 40).query.inputs
    first: dict[bytes, torch.Tensor] = {}
    for clean, damaged in zip(plain[:, :6].flatten(0, 1), noisy[:, :6].flatten(0, 1), strict=True):
        assert torch.equal(first.setdefault(clean.numpy().tobytes(), damaged), damaged)
    assert len(first) < 40 * 6
    # The second half of each task has the second corruption, which draws nothing.
    images = pixels(plain[0, 6:]).numpy()
    assert torch.equal(pixels(noisy[0, 6:]), torch.from_numpy(corrupt(images, names[1], 4, np.zeros(6, np.uint64))))
    assert torch.equal(episode(tasks, "train").query.inputs, episode(source(store), "train").query.inputs)


def test_labels_are_flipped_at_evaluation_alone(store: ClassStore) -> None:
    tasks = source(store, shift={"kind": "labels"})
    for split in ("train", "test"):
        one = episode(tasks, split)
        for role in (SUPPORT, QUERY):
            true = pixels(one[role].inputs)[:, :, 0, 8, 0].long() - 1
            assert torch.equal(one[role].targets, true if split == "train" else CLASSES - 1 - true)


def test_marks_say_the_class_in_training_alone(store: ClassStore) -> None:
    tasks = source(store, shift={"kind": "spurious", "correlation": 0.9})
    agree = {}
    for split in ("train", "test"):
        one = episode(tasks, split, 40)
        bright = pixels(one.query.inputs)[:, :, 0, :3] == 255  # images have no pixel that is as bright
        assert bool((bright.sum((2, 3)) == 3 * SIDE // CLASSES).all())
        mark = bright[:, :, 0].long().argmax(-1) * CLASSES // SIDE
        agree[split] = float((mark == one.query.targets).double().mean())
    assert agree["train"] > 0.8
    assert agree["test"] < 0.5


def test_subclasses_change_at_evaluation(store: ClassStore) -> None:
    classes = {"low": (["class0"], ["class1"]), "high": (["class3"], ["class2"])}
    tasks = source(store, shift={"kind": "subclass", "classes": classes})
    assert (tasks.num_outputs, tasks.train_outputs[QUERY]) == (2, 2)
    for split, members in (("train", [0, 3]), ("test", [1, 2])):
        one = episode(tasks, split, 9)
        true = pixels(one.query.inputs)[:, :, 0, 8, 0].long() - 1
        assert torch.equal(true, torch.tensor(members)[one.query.targets])
    unknown = {"low": (["class0"], ["clas1"]), "high": (["class3"], ["class2"])}
    with pytest.raises(UserError, match=r"tasks.shift.classes: the store has no class 'clas1'; allowed: did you mean"):
        source(store, shift={"kind": "subclass", "classes": unknown})


def test_augmentation_moves_and_mirrors() -> None:
    images = np.arange(2 * 200 * 3 * 6 * 5, dtype=np.int64).reshape(2, 200, 3, 6, 5).astype(np.uint8) | 1
    seeds = np.array([4, 9], dtype=np.uint64)
    changed = augmented(images, Augmentation(crop=1), seeds, "x")
    assert changed.shape == images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    windows = [padded[..., down : down + 6, right : right + 5] for down in range(3) for right in range(3)]
    every = np.stack([*windows, *(window[..., ::-1] for window in windows)])
    which = (every == changed).all((3, 4, 5))
    assert bool((which.sum(0) >= 1).all())
    assert len(set(which.argmax(0).ravel().tolist())) == 18
    assert np.array_equal(changed[1:], augmented(images[1:], Augmentation(crop=1), seeds[1:], "x"))
    assert np.array_equal(images, augmented(images, Augmentation(crop=0, flip=False), seeds, "x"))


def test_training_images_alone_are_augmented(store: ClassStore) -> None:
    plain, moved = source(store), source(store, augment={"crop": 2})
    assert torch.equal(episode(plain, "test").query.inputs, episode(moved, "test").query.inputs)
    assert not torch.equal(episode(plain, "train").query.inputs, episode(moved, "train").query.inputs)
    assert torch.equal(episode(plain, "train").query.targets, episode(moved, "train").query.targets)


def test_what_cannot_be_had_is_refused_in_one_line(store: ClassStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks.queries: 6 examples and 60 queries, but split 'train' .* has 60; allo"):
        source(store, queries=60)
    with pytest.raises(UserError, match=r"tasks.eval_queries: 6 examples and 40 queries, but split 'test' .* has 36"):
        source(store, eval_queries=40)
    no_test = source(store, shares=(0.8, 0.2, 0.0), eval_queries=40)
    with pytest.raises(UserError, match=r"but split 'val' .* has 24"):
        episode(no_test, "val")
    wide = write_store(
        tmp_path / "wide", np.zeros((9, 1, 4, 5), np.uint8), class_names=["a"], class_counts=[9], splits={"x": {}}
    )
    with pytest.raises(UserError, match=r"has 4 x 5 images; allowed: square images"):
        source(wide)
    for fields, message in (
        ({"shares": (0.5, 0.2, 0.2)}, "sum to 0.9"),
        ({"shift": {"kind": "corruption", "names": ["rain"]}}, "names"),
        ({"shift": {"kind": "subclass", "classes": {"a": (["x"], ["y"]), "b": (["x"], ["z"])}}}, "'x' is a member 2"),
        ({"shift": {"kind": "subclass", "classes": {"a": (["x"], []), "b": (["w"], ["z"])}}}, "has no members"),
    ):
        with pytest.raises(ValueError, match=message):
            ShiftedTasks.model_validate(fields)
