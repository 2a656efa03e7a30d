"""Drawn characters: the renderer, and the difficulty of the tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distmeta.config.tasks import GlyphTasks
from distmeta.core.seeding import bits
from distmeta.core.types import SOURCE, Episode
from distmeta.tasks.drawing import draw
from distmeta.tasks.glyphs import SOURCE_CLASSES, GlyphSource, class_seeds


def source_of(**fields: object) -> GlyphSource:
    return GlyphSource(GlyphTasks(**fields), 0, torch.float32)


def nearest_neighbour_accuracy(episode: Episode) -> float:
    """Accuracy of a nearest-neighbour classifier on pixels."""
    support, query = episode.support.inputs.flatten(2), episode.query.inputs.flatten(2)
    predicted = episode.support.targets.gather(1, torch.cdist(query, support).argmin(dim=2))
    return float((predicted == episode.query.targets).double().mean())


@pytest.mark.parametrize("size", [8, 28, 64])
def test_images_are_mostly_background_and_use_the_full_range(size: int) -> None:
    seeds = bits(np.arange(2), "test", 100)
    images = draw(seeds[0], seeds[1], size)
    assert images.shape == (100, size, size)
    assert images.dtype == np.float32
    assert images.min() == 0.0
    assert images.max() == 1.0
    per_image = images.mean(axis=(1, 2))
    assert per_image.min() > 0.01
    assert per_image.max() < 0.5


def test_each_image_depends_on_its_two_seeds_alone() -> None:
    seeds = bits(np.arange(2), "test", 30)
    together = draw(seeds[0], seeds[1], 28)
    alone = np.concatenate([draw(seeds[0, i : i + 1], seeds[1, i : i + 1], 28) for i in range(30)])
    np.testing.assert_array_equal(together, alone)


def test_without_jitter_all_drawers_draw_the_same_character() -> None:
    drawers = bits(np.arange(1), "test", 6)[0]
    images = draw(np.full(6, 12345, dtype=np.uint64), drawers, 28, jitter=0.0)
    assert (images == images[0]).all()
    assert (draw(np.full(6, 12345, dtype=np.uint64), drawers, 28)[1:] != images[0]).any(axis=(1, 2)).all()


def test_more_jitter_makes_drawings_less_alike() -> None:
    drawers = bits(np.arange(1), "test", 40)[0]
    spread = [draw(np.full(40, 7, dtype=np.uint64), drawers, 28, jitter).std(axis=0).mean() for jitter in (0.3, 1.0)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_label_noise_makes_a_fixed_number_of_labels_of_each_class_wrong(split: str) -> None:
    """And leaves as many of each label; queries, and which images there are, stay the same."""
    fields: dict[str, object] = {"way": 4, "shots": 5, "queries": 2, "size": 8}
    clean, noisy = source_of(**fields), source_of(**fields, label_noise=0.4)
    before, after = (source.episodes(source.specs(split, 0, 6)) for source in (clean, noisy))
    assert torch.equal(before.support.inputs, after.support.inputs)
    assert torch.equal(before.query["targets"], after.query["targets"])
    right, given = before.support["targets"], after.support["targets"]
    for label in range(4):
        assert ((right == label) & (given != label)).sum(1).tolist() == [2] * 6
        assert (given == label).sum(1).tolist() == [5] * 6
    assert len({tuple(row) for row in (given - right).tolist()}) > 1, "tasks draw other labels"
    alone = noisy.episodes(noisy.specs(split, 0, 6)[3:4])
    assert torch.equal(alone.support["targets"][0], given[3])


@pytest.mark.parametrize(("shots", "share", "wrong"), [(1, 0.3, 0), (2, 0.9, 2), (4, 0.1, 0)])
def test_label_noise_of_no_or_of_all_examples_is_refused(shots: int, share: float, wrong: int) -> None:
    with pytest.raises(ValidationError, match=f"label_noise {share} of {shots} shots is {wrong} wrong labels"):
        GlyphTasks(shots=shots, label_noise=share)


def test_splits_have_no_class_in_common() -> None:
    task_seeds = np.arange(2000, dtype=np.uint64)
    classes = [set(class_seeds(split, task_seeds, 5).ravel().tolist()) for split in ("train", "val", "test")]
    assert [len(seeds) for seeds in classes] == [10_000] * 3
    assert [{seed % 4 for seed in seeds} for seeds in classes] == [{0}, {1}, {2}]


def test_labels_are_balanced_and_support_rows_shuffled() -> None:
    episode = source_of(way=4, shots=2, queries=3, size=8).episodes(source_of().specs("train", 0, 30))
    support, query = episode.support.targets, episode.query.targets
    for labels, count in ((support, 2), (query, 3)):
        assert torch.equal(torch.nn.functional.one_hot(labels, 4).sum(dim=1), torch.full((30, 4), count))
    assert len({tuple(row) for row in support.tolist()}) > 20


def test_rows_of_one_label_are_one_character_by_different_drawers() -> None:
    source = source_of(way=3, shots=2, eval_queries=2, jitter=0.0)
    episode = source.episodes(source.specs("val", 0, 4))
    inputs = torch.cat([episode.support.inputs, episode.query.inputs], dim=1)
    targets = torch.cat([episode.support.targets, episode.query.targets], dim=1)
    equal = (inputs[:, :, None] == inputs[:, None]).flatten(3).all(dim=3)
    assert torch.equal(equal, targets[:, :, None] == targets[:, None])
    jittered = source_of(way=3, shots=2, eval_queries=2).episodes(source.specs("val", 0, 4))
    assert len({image.numpy().tobytes() for image in jittered.query.inputs.flatten(0, 1)}) == 4 * 6


def test_source_batches_label_the_source_classes() -> None:
    source = source_of(way=5, queries=15, jitter=0.0, size=12)
    outputs = {"support": 5, "query": 5, "source": SOURCE_CLASSES, "unlabelled": 5, "domains": 2, "rotation": 4}
    assert (source.num_outputs, source.train_outputs) == (5, outputs)
    episode = source.episodes(source.specs("train", 0, 30), (SOURCE,))
    assert list(episode.roles) == [SOURCE]
    batch = episode[SOURCE]
    assert batch.inputs.shape == (30, 75, 1, 12, 12)
    labels, images = batch.targets.flatten(), batch.inputs.flatten(0, 1)
    assert len(labels.unique()) == SOURCE_CLASSES
    for label in labels.unique()[:20]:
        same = images[labels == label]
        assert (same == same[0]).all()
    other = GlyphSource(GlyphTasks(jitter=0.0, size=12), 1, torch.float32)
    again = other.episodes(other.specs("train", 0, 30), (SOURCE,))[SOURCE]
    label = int(again.targets[0, 0])
    assert torch.equal(again.inputs[0, 0], images[labels == label][0]), "the classes are the same in every run"


def test_nearest_neighbours_on_pixels_do_not_solve_the_tasks() -> None:
    source = source_of(way=5, shots=1, eval_queries=5)
    assert 0.55 < nearest_neighbour_accuracy(source.episodes(source.specs("test", 0, 100))) < 0.8
