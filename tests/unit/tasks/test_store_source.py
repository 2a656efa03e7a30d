"""Episodes over a class store. The pixels of the small store encode the origin of an image (see conftest)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distmeta.config.tasks import StoreTasks
from distmeta.core.errors import UserError
from distmeta.core.types import SOURCE, Batch
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks import build_source
from distmeta.tasks.images import StoreSource

STEPS = 12


def source_of(store: ClassStore, **fields: object) -> StoreSource:
    return StoreSource(StoreTasks(store=str(store.path), **fields), store, 0, torch.float32)


def origins(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class, example and quarter turns of each image: [T, N] each."""
    images = (batch.inputs * 255).round().to(torch.int64).numpy()[:, :, 0]
    turns = np.full(images.shape[:2], -1)
    upright = np.zeros_like(images)
    for turn in range(4):
        back = np.rot90(images, -turn, axes=(-2, -1))
        match = back[..., 1, 0] == 200
        turns[match], upright[match] = turn, back[match]
    assert (turns >= 0).all()
    return upright[..., 0, 0] - 1, upright[..., 0, 1] - 1, turns


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("rotations", [False, True])
def test_labels_classes_and_examples(store: ClassStore, split: str, rotations: bool) -> None:
    source = source_of(
        store, way=3, shots=2, queries=3, eval_queries=4, train_way=5, train_shots=1, rotations=rotations
    )
    way, shots, queries = (5, 1, 3) if split == "train" else (3, 2, 4)
    assert source.num_outputs == 3
    own = {"unlabelled": 5, "domains": 2, "rotation": 4}
    assert source.train_outputs == {"support": 5, "query": 5, "source": 6 * (4 if rotations else 1), **own}
    episode = source.episodes(source.specs(split, 0, 40))
    assert episode.support.inputs.shape == (40, way * shots, 1, 4, 4)
    assert episode.query.inputs.shape == (40, way * queries, 1, 4, 4)
    support, query = origins(episode.support), origins(episode.query)
    allowed = store.split("mixed", split)
    for task in range(40):
        support_y, query_y = episode.support.targets[task].numpy(), episode.query.targets[task].numpy()
        assert np.bincount(support_y, minlength=way).tolist() == [shots] * way
        assert np.bincount(query_y, minlength=way).tolist() == [queries] * way
        task_classes = set()
        for label in range(way):
            rows = [np.stack(part)[:, task, y == label].T for part, y in ((support, support_y), (query, query_y))]
            classes = {(int(c), int(turn)) for c, _, turn in np.concatenate(rows)}
            examples = [int(example) for _, example, _ in np.concatenate(rows)]
            assert len(classes) == 1, "one label, one class"
            assert len(set(examples)) == shots + queries, "support and query share no example"
            task_classes |= classes
        assert len(task_classes) == way, "one class, one label"
        assert {c for c, _ in task_classes} <= set(allowed.tolist())
        assert {turn for _, turn in task_classes} <= ({0, 1, 2, 3} if rotations else {0})


def test_every_class_rotation_and_example_is_drawn(store: ClassStore) -> None:
    source = source_of(store, way=3, shots=2, queries=3, eval_queries=3, rotations=True)
    classes, examples, turns = origins(source.episodes(source.specs("val", 0, 400)).support)
    counts = np.diff(store.class_offsets)
    seen = set(zip(classes.ravel().tolist(), examples.ravel().tolist(), turns.ravel().tolist(), strict=True))
    expected = {
        (c, e, turn) for c in store.split("mixed", "val").tolist() for e in range(counts[c]) for turn in range(4)
    }
    assert seen == expected


def test_support_rows_are_shuffled_within_the_task(store: ClassStore) -> None:
    source = source_of(store, way=3, shots=2, queries=3, eval_queries=3)
    targets = source.episodes(source.specs("test", 0, 200)).support.targets
    assert targets is not None
    first_row = torch.bincount(targets[:, 0], minlength=3)
    assert int(first_row.min()) > 40
    assert len({tuple(row) for row in targets.tolist()}) > 60  # of 90 different orders


@pytest.mark.parametrize("split", ["train", "val"])
def test_source_batches_have_the_global_labels_of_all_training_classes(store: ClassStore, split: str) -> None:
    source = source_of(store, way=3, shots=2, queries=3, eval_queries=3, rotations=True)
    assert source.train_outputs[SOURCE] == 24
    batch = source.episodes(source.specs(split, 0, 100), (SOURCE,))[SOURCE]
    assert batch.inputs.shape == (100, 9, 1, 4, 4)
    classes, _, turns = origins(batch)
    labels = batch.targets.numpy()
    assert set(labels.ravel().tolist()) == set(range(24))
    train = store.split("mixed", "train")
    np.testing.assert_array_equal(train[labels // 4], classes)
    np.testing.assert_array_equal(labels % 4, turns)


def test_the_store_is_opened_by_name_and_the_source_is_pickled_with_its_path(
    make_store: Callable[..., ClassStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "home"))
    store = make_store("home/stores/mine")
    config = StoreTasks(store="mine", way=3, shots=2, queries=2, eval_queries=2)
    source = build_source(config, 0, torch.float32)
    assert store.name == "mine"
    pickled = pickle.dumps(source)
    assert len(pickled) < 4000
    specs = source.specs("train", 0, 2)
    assert torch.equal(pickle.loads(pickled).episodes(specs).support.inputs, source.episodes(specs).support.inputs)


VALID = {"way": 3, "shots": 2, "queries": 2, "eval_queries": 2}
IMPOSSIBLE = [
    ({"way": 4}, r"tasks\.way: 4 ways, but split 'val' of data 'small' has 3 classes; allowed: 2 to 3"),
    ({"train_way": 9}, r"tasks\.train_way: 9 ways, but split 'train' of data 'small' has 6 classes; allowed: 2 to 6"),
    ({"eval_queries": 5}, r"2 shots and 5 queries .* split 'test': class 'class03' has 6 examples, 7 are needed"),
    ({"train_shots": 5}, r"5 shots and 2 queries .* split 'train': class 'class07' has 6 examples, 7 are needed"),
    ({"split_set": "mixt"}, r"no split set 'mixt'.*mixed"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_impossible_tasks_are_refused(store: ClassStore, change: dict[str, object], message: str) -> None:
    source_of(store, **VALID)
    with pytest.raises(UserError, match=message):
        source_of(store, **VALID | change)


def grouped(tmp_path: Path) -> ClassStore:
    """Groups of classes with six examples; pixels are those of the small store."""
    sizes = {"a": 2, "b": 4, "c": 3, "d": 2, "e": 3, "f": 3}
    names = [f"{group}/{number}" for group, size in sizes.items() for number in range(size)]
    images = np.zeros((len(names) * 6, 1, 4, 4), dtype=np.uint8)
    images[:, 0, 0, 0] = np.repeat(np.arange(len(names)), 6) + 1
    images[:, 0, 0, 1] = np.tile(np.arange(6), len(names)) + 1
    images[:, 0, 1, 0] = 200
    splits = {"all": {"train": list(range(9)), "val": list(range(9, 14)), "test": list(range(14, 17))}}
    return write_store(tmp_path / "grouped", images, class_names=names, class_counts=[6] * 17, splits=splits)


@pytest.mark.parametrize("rotations", [False, True])
def test_the_classes_of_a_task_are_of_one_group_that_is_large_enough(tmp_path: Path, rotations: bool) -> None:
    store = grouped(tmp_path)
    source = source_of(
        store, way=3, shots=1, queries=1, eval_queries=1, train_way=2, one_group=True, rotations=rotations
    )
    for split, way, groups in (
        ("train", 2, {"a", "b", "c"}),
        ("val", 3, {"d", "e"} if rotations else {"e"}),
        ("test", 3, {"f"}),
    ):
        classes, _, turns = origins(source.episodes(source.specs(split, 0, 60)).support)
        found = [{store.class_names[index].partition("/")[0] for index in task} for task in classes]
        assert all(len(task) == 1 for task in found)
        assert set().union(*found) == groups
        of_task = [set(zip(*pair, strict=True)) for pair in zip(classes.tolist(), turns.tolist(), strict=True)]
        assert all(len(distinct) == way for distinct in of_task)
    sizes = {"shots": 1, "queries": 1, "eval_queries": 1, "one_group": True}
    with pytest.raises(UserError, match="5 ways, but a group of data 'grouped' has 4 classes; allowed: 2 to 4"):
        source_of(store, way=3, train_way=5, **sizes)


def test_the_examples_of_a_task_have_the_same_numbers_in_all_classes(tmp_path: Path) -> None:
    fields = {"way": 3, "shots": 2, "queries": 2, "eval_queries": 2}
    store = grouped(tmp_path)
    source = source_of(store, same_rows=True, **fields)
    episode = source.episodes(source.specs("train", 0, 40))
    drawn = set()
    for task in range(40):
        numbers = []
        for batch in (episode.support, episode.query):
            classes, examples, _ = origins(batch)
            by_class = [sorted(examples[task][classes[task] == each].tolist()) for each in set(classes[task])]
            assert by_class[0] == by_class[1] == by_class[2]
            numbers += by_class[0]
        assert len(set(numbers)) == 4
        drawn |= set(numbers)
    assert drawn == set(range(6))


def test_rotations_need_square_images(make_store: Callable[..., ClassStore]) -> None:
    oblong = make_store(width=5)
    source_of(oblong, **VALID)
    with pytest.raises(UserError, match=r"tasks\.rotations: rotations of 4 x 5 images; allowed: square images"):
        source_of(oblong, **VALID, rotations=True)


def test_one_of_several_split_sets_must_be_configured(make_store: Callable[..., ClassStore]) -> None:
    split_set = {"train": [0, 1, 2], "val": [3, 4, 5], "test": [6, 7, 8]}
    two = make_store("two", splits={"one": split_set, "other": split_set})
    assert source_of(two, **VALID, split_set="other").input_shape == (1, 4, 4)
    with pytest.raises(
        UserError, match=r"tasks\.split_set: .* 2 split sets and none is configured; allowed: one, other"
    ):
        source_of(two, **VALID)
    with pytest.raises(UserError, match=r"tasks\.split_set: .* 0 split sets"):
        source_of(make_store("none", splits={}), **VALID)


def test_a_split_without_classes_is_refused_only_when_it_is_used(make_store: Callable[..., ClassStore]) -> None:
    splits = {"train": [0, 1, 2], "val": [], "test": [6, 7, 8]}
    source = source_of(make_store(splits={"uneven": splits}), **VALID)
    source.episodes(source.specs("test", 0, 1))
    with pytest.raises(UserError, match="split 'val' of data 'small' has 0 classes"):
        source.episodes(source.specs("val", 0, 1))


@pytest.mark.slow
@pytest.mark.omniglot
def test_omniglot_tasks_at_the_settings_of_the_literature(omniglot_store: Path) -> None:
    config = StoreTasks(store=str(omniglot_store), way=20, shots=1, queries=5, eval_queries=5, rotations=True)
    source = build_source(config, 0, torch.float32)
    assert source.input_shape == (1, 28, 28)
    episode = source.episodes(source.specs("test", 0, 8))
    assert episode.query.inputs.shape == (8, 100, 1, 28, 28)
    ink = episode.query.inputs
    assert 0.0 <= float(ink.min()) <= float(ink.max()) <= 1.0
    assert 0.03 < float(ink.mean()) < 0.2, "ink is 1 on a background of 0"
    assert source.train_outputs[SOURCE] == 4 * 1100


def test_streams_have_labels_among_all_training_classes(store: ClassStore) -> None:
    stream = {"classes": 2, "shots": 3, "queries": 1, "remember": 40}
    source = source_of(store, way=3, shots=2, queries=2, eval_queries=2, stream=stream)
    outputs = {"support": 3, "query": 3, "source": 6, "trajectory": 6, "remember": 6}
    assert {role: source.train_outputs[role] for role in outputs} == outputs
    assert set(source.roles("train")) - set(source.roles("test")) == {"trajectory", "remember"}
    episode = source.episodes(source.specs("train", 0, 20), ("trajectory", "remember"))
    of_label = store.split("mixed", "train")
    assert episode["trajectory"].inputs.shape == (20, 6, 1, 4, 4)
    assert episode["remember"].inputs.shape == (20, 2 + 40, 1, 4, 4)
    for role in episode.roles:
        assert np.array_equal(origins(episode[role])[0], of_label[episode[role].targets.numpy()])
    drawn = set()
    for labels, examples, more, further in zip(
        episode["trajectory"].targets.tolist(),
        origins(episode["trajectory"])[1].tolist(),
        episode["remember"].targets.tolist(),
        origins(episode["remember"])[1].tolist(),
        strict=True,
    ):
        first, second = labels[0], labels[3]
        assert first != second
        assert labels == [first] * 3 + [second] * 3, "class after class"
        assert more[:2] == [first, second]
        assert len({*examples[:3], further[0]}) == len({*examples[3:], further[1]}) == 4, "further examples are others"
        drawn |= set(more[2:])
    assert drawn == set(range(6))


def test_evaluation_tasks_of_streams_come_class_after_class(store: ClassStore) -> None:
    fields = {"way": 3, "shots": 2, "queries": 2, "eval_queries": 2}
    source, shuffled = source_of(store, **fields, stream={"shots": 3}), source_of(store, **fields)
    specs = source.specs("test", 0, 10)
    support, others = source.episodes(specs).support, shuffled.episodes(specs).support
    assert support.targets.tolist() == [[0, 0, 1, 1, 2, 2]] * 10
    order = others.targets.argsort(dim=1, stable=True)
    assert any(targets != [0, 0, 1, 1, 2, 2] for targets in others.targets.tolist())
    for task in range(10):
        same = others.inputs[task][order[task]]
        assert {x.numpy().tobytes() for x in same} == {x.numpy().tobytes() for x in support.inputs[task]}


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"classes": 7, "shots": 2}, r"tasks.stream.classes: 7 classes in a trajectory, but there are 6 training cl"),
        ({"shots": 5, "queries": 2}, r"tasks.stream: 5 shots and 2 queries .* has 6 examples, 7 are needed"),
    ],
)
def test_streams_that_are_too_long_are_refused(store: ClassStore, stream: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source_of(store, way=3, shots=2, queries=2, eval_queries=2, stream=stream)
