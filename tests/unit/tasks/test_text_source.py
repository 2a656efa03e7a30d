"""Few-shot tasks over texts. The words of the small store say class and example of each text."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distmeta.config.base import to_user_error
from distmeta.config.tasks import StoreTasks, TextTasks
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, OUTSIDE, SOURCE, Batch, Episode, TaskSpec
from distmeta.data.catalog import import_store
from distmeta.data.store import ClassStore, write_store
from distmeta.models.petl.texts import row_width
from distmeta.models.petl.tokens import MINILM_PACKAGE, load_tokenizer
from distmeta.tasks import build_source
from distmeta.tasks.images import StoreSource
from distmeta.tasks.texts import TextSource

from .conftest import COUNTS, OUTSIDE_TEXTS, SPLITS, text_of

VALID = {"way": 3, "shots": 2, "queries": 2, "eval_queries": 3, "tokenizer": "words", "buckets": (16, 24, 48)}


def source_of(store: ClassStore, seed: int = 0, **fields: object) -> TextSource:
    config = TextTasks.model_validate({"store": str(store.path), **VALID, **fields})
    return TextSource(config, store, seed, torch.float32)


def origins(source: TextSource, batch: Batch) -> list[list[tuple[int, int]]]:
    """Class and example of each text, [T][N], read from its words; checks the whole text."""
    tokenizer = source.load_tokenizer()
    found = []
    for task in batch.inputs.tolist():
        rows = []
        for ids in task:
            text = tokenizer.decode(ids)
            bits = [int(word == "b") for word in text.split()[:10]]
            origin = tuple(sum(bit << place for place, bit in enumerate(part)) for part in (bits[:4], bits[4:]))
            assert text == text_of(*origin)
            rows.append(origin)
        found.append(rows)
    return found


@pytest.mark.parametrize(("split", "queries"), [("train", 2), ("val", 3), ("test", 3)])
def test_a_task_has_distinct_texts_of_classes_of_its_split(texts: ClassStore, split: str, queries: int) -> None:
    source = source_of(texts)
    episode = source.episodes(source.specs(split, 0, 20))
    assert episode.support.inputs.dtype == torch.int64
    for task, (support, query) in enumerate(
        zip(origins(source, episode.support), origins(source, episode.query), strict=True)
    ):
        assert (len(support), len(query)) == (6, 3 * queries)
        labelled: dict[int, set[int]] = {}
        for rows, batch in ((support, episode.support), (query, episode.query)):
            for (index, _), label in zip(rows, batch.targets[task].tolist(), strict=True):
                labelled.setdefault(label, set()).add(index)
        assert sorted(labelled) == [0, 1, 2]
        assert all(len(classes) == 1 for classes in labelled.values()), "one label, one class"
        classes = set.union(*labelled.values())
        assert len(classes) == 3 and classes <= set(SPLITS["mixed"][split])
        assert len({*support, *query}) == len(support) + len(query), "support and query share no text"


def test_texts_are_drawn_as_images_are(texts: ClassStore, store: ClassStore) -> None:
    """The same seeds give the same classes and examples, whatever the examples are."""
    fields = {key: VALID[key] for key in ("way", "shots", "queries", "eval_queries")}
    images = StoreSource(StoreTasks(store="small", **fields), store, 0, torch.float32)
    source = source_of(texts)
    specs = source.specs("test", 2, 10)
    pictures, words = images.episodes(specs), source.episodes(specs)
    for role in ("support", "query"):
        pixels = (pictures[role].inputs[:, :, 0, 0, :2] * 255).round().to(torch.int64) - 1
        assert [[tuple(row) for row in task] for task in pixels.tolist()] == origins(source, words[role])
        assert torch.equal(pictures[role].targets, words[role].targets)


def lengths_of(episode: Episode) -> list[int]:
    assert episode.sizes is not None
    return [size.length for size in episode.sizes]


def test_an_episode_is_padded_to_its_longest_task_and_each_task_has_its_own_length(texts: ClassStore) -> None:
    source = source_of(texts, way=2, shots=1, queries=1, eval_queries=1, buckets=(24, 32, 48))
    specs = source.specs("train", 0, 40)
    episode = source.episodes(specs)
    assert set(lengths_of(episode)) == {24, 32, 48}
    assert episode.support.inputs.shape[-1] == episode.query.inputs.shape[-1] == 48
    every = torch.cat([episode.support.inputs, episode.query.inputs], dim=1)
    needed = (every != source.pad_id).sum(-1).amax(-1).tolist()
    assert lengths_of(episode) == [min(b for b in (24, 32, 48) if b >= size) for size in needed]
    for index, spec in enumerate(specs):
        alone = source.episodes([spec])
        assert episode.sizes is not None and alone.sizes == (episode.sizes[index],)
        assert alone.support.inputs.shape[-1] == lengths_of(episode)[index]
        assert torch.equal(alone.support.inputs, episode.select([index]).support.inputs)
        assert torch.equal(alone.query.inputs, episode.select([index]).query.inputs)


@settings(max_examples=30, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6), split=st.sampled_from(["train", "val"]))
def test_a_task_is_the_same_alone_and_among_others(shared: TextSource, seeds: list[int], split: str) -> None:
    specs = [TaskSpec(index, seed, split) for index, seed in enumerate(seeds)]
    roles = shared.roles(split)
    together = shared.episodes(specs, roles)
    for index, spec in enumerate(specs):
        alone, chosen = shared.episodes([spec], roles).select([0]), together.select([index])
        assert chosen.sizes == alone.sizes
        assert all(torch.equal(a, b) for a, b in zip(alone.tensors(), chosen.tensors(), strict=True))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TextSource:
    folder = tmp_path_factory.mktemp("shared")
    rows = [text_of(index, example) for index, count in enumerate(COUNTS) for example in range(count)]
    names = [str(index) for index in range(len(COUNTS))]
    store = write_store(folder / "texts", rows, class_names=names, class_counts=COUNTS, splits=SPLITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(folder / "home"))
        return source_of(store)


def test_padding_is_on_the_right_and_occurs_in_no_text(texts: ClassStore) -> None:
    source = source_of(texts)
    episode = source.episodes(source.specs("val", 0, 20), source.roles("val"))
    for batch in episode.roles.values():
        kept = batch.inputs != source.pad_id
        assert bool((kept[..., :-1] >= kept[..., 1:]).all()), "no token after padding"
        assert bool(kept[..., 0].all())
        assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < source.vocab_size


def test_long_texts_are_cut_and_keep_their_closing_token(texts: ClassStore) -> None:
    source, whole = source_of(texts, buckets=(8, 14)), source_of(texts)
    specs = source.specs("test", 0, 30)
    cut, full = source.episodes(specs), whole.episodes(specs)
    assert source.input_shape == (14,) and set(lengths_of(cut)) == {14}
    closing = load_tokenizer("words", lambda: [""]).closing()
    assert len(closing) == 1
    num_cut = 0
    for short, long in zip(
        cut.query.inputs.flatten(0, 1).tolist(), full.query.inputs.flatten(0, 1).tolist(), strict=True
    ):
        size = sum(index != source.pad_id for index in long)
        if size <= 14:
            assert short == long[:14]
        else:
            num_cut += 1
            assert short == [*long[:13], closing[0]]
    assert num_cut > 20


def test_role_source_has_the_labels_of_all_training_classes(texts: ClassStore) -> None:
    source = source_of(texts)
    batch = source.episodes(source.specs("train", 0, 100), (SOURCE,))[SOURCE]
    train = SPLITS["mixed"]["train"]
    for rows, labels in zip(origins(source, batch), batch.targets.tolist(), strict=True):
        assert [index for index, _ in rows] == [train[label] for label in labels]
    assert set(batch.targets.flatten().tolist()) == set(range(len(train)))


def test_tokens_and_padding_are_counted(texts: ClassStore) -> None:
    source = source_of(texts)
    episode = source.episodes(source.specs("test", 0, 7))
    count = source.count_tokens(episode)
    masks = [(batch.inputs != source.pad_id).sum() for batch in episode.roles.values()]
    assert count.tokens == int(sum(masks))
    assert count.places == sum(places for size in episode.sizes or () for _, places in size.places)
    for index, size in enumerate(episode.sizes or ()):
        for role, places in size.places:
            tokens = int((episode[role].inputs[index] != source.pad_id).sum())
            assert tokens <= places and places % row_width(size.length) == 0
    assert count.padding == pytest.approx(1 - count.tokens / count.places)
    parts = [source.count_tokens(episode.select([task])) for task in range(7)]
    assert (sum(part.tokens for part in parts), sum(part.places for part in parts)) == (count.tokens, count.places)


# Out of scope


def test_outside_texts_are_of_the_class_that_is_in_no_split(texts: ClassStore) -> None:
    source = source_of(texts, outside=True)
    assert source.roles("train") == ("support", "query", "source", "labels")
    drawn = {}
    for split in ("val", "test"):
        assert source.roles(split) == ("support", "query", "source", "labels", OUTSIDE)
        batch = source.episodes(source.specs(split, 0, 40), ("support", "query", OUTSIDE))[OUTSIDE]
        assert batch.targets is None and batch.inputs.shape[:2] == (40, 9)
        rows = origins(source, batch)
        assert all(len(set(task)) == 9 for task in rows), "no text twice"
        drawn[split] = {origin for task in rows for origin in task}
        assert {index for index, _ in drawn[split]} == {len(COUNTS)}
    assert not drawn["val"] & drawn["test"]
    assert len(drawn["val"] | drawn["test"]) == OUTSIDE_TEXTS
    with pytest.raises(UserError, match="there is no role 'outside'; allowed: support, query, source"):
        source.episodes(source.specs("train", 0, 1), (OUTSIDE,))


def test_outside_needs_a_class_outside_of_the_splits_with_enough_texts(tmp_path: Path, texts: ClassStore) -> None:
    with pytest.raises(
        UserError, match=r"tasks.eval_queries: 15 out-of-scope texts .* has 14 for a split; allowed: at most 4"
    ):
        source_of(texts, outside=True, eval_queries=5, shots=1)
    counts = [6] * 6
    rows = [text_of(index, example) for index in range(6) for example in range(6)]
    splits = {"all": {"train": [0, 1, 2], "val": [], "test": [3, 4, 5]}}
    for name, last, message in (
        ("inside", "oos", "class 'oos' of data 'inside' is in split set 'all'; allowed: a split set without it"),
        ("without", "z", "data 'without' has no class 'oos'; allowed: false, or"),
    ):
        names = ["a", "b", "c", "d", "e", last]
        store = write_store(tmp_path / name, rows, class_names=names, class_counts=counts, splits=splits)
        source_of(store)
        with pytest.raises(UserError, match=message):
            source_of(store, outside=True)


def test_a_source_is_pickled_with_the_paths_of_its_files(texts: ClassStore) -> None:
    source = source_of(texts, outside=True)
    pickled = pickle.dumps(source)
    assert len(pickled) < 5000
    specs, roles = source.specs("test", 0, 2), source.roles("test")
    copied = pickle.loads(pickled).episodes(specs, roles)
    assert all(
        torch.equal(a, b) for a, b in zip(copied.tensors(), source.episodes(specs, roles).tensors(), strict=True)
    )


# Bad configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"way": 4}, r"tasks\.way: 4 ways, but split 'val' of data 'texts' has 3 classes; allowed: 2 to 3"),
        ({"eval_queries": 5}, r"2 shots and 5 queries .* split 'test': class 'class03' has 6 examples, 7 are needed"),
        ({"split_set": "mixt"}, r"no split set 'mixt'.*mixed"),
        (
            {"tokenizer": "/nowhere"},
            r"tasks\.tokenizer: no tokenizer '/nowhere': it is no folder; allowed: minilm, wor",
        ),
        ({"tokenizer": "words:4"}, r"tasks\.tokenizer: no tokenizer 'words:4'; allowed: words:SIZE with 5 to"),
    ],
)
def test_impossible_tasks_are_refused(texts: ClassStore, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source_of(texts, **change)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([], "TextTasks.buckets: [] is not valid; allowed: 1 or more elements"),
        ([16, 16], "TextTasks.buckets: [16, 16] does not ascend; allowed: each bucket longer than the one before"),
        ([32, 16], "TextTasks.buckets: [32, 16] does not ascend"),
        ([3], "TextTasks.buckets.0: 3 is not valid; allowed: greater than or equal to 4"),
    ],
)
def test_buckets_ascend(buckets: list[int], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TextTasks(store="x", buckets=buckets)
    assert str(to_user_error(caught.value)).startswith(message)


def test_a_store_of_another_kind_is_refused(store: ClassStore, texts: ClassStore) -> None:
    with pytest.raises(UserError, match=r"data 'small' holds image; allowed: a store of texts; tasks.source 'images'"):
        source_of(store)
    with pytest.raises(UserError, match=r"data 'texts' holds text; allowed: a store of images; tasks.source 'texts'"):
        StoreSource(StoreTasks(store="texts"), texts, 0, torch.float32)


def test_the_bound_on_a_shard_counts_outside_texts() -> None:
    config = TextTasks(store="x", way=4, shots=1, queries=2, eval_queries=3)
    assert config.max_examples == 16
    assert config.model_copy(update={"outside": True}).max_examples == 28


# Real data


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(MINILM_PACKAGE) is None, reason="needs distmeta[text]")
@pytest.mark.parametrize("name", ["banking77", "clinc150"])
def test_intents_at_the_settings_of_the_literature(data_dir: Path, name: str) -> None:
    if not (data_dir / name).is_dir():
        pytest.skip(f"{data_dir} holds no {name}/")
    store = import_store(name, data_dir / name)
    outside = name == "clinc150"
    config = TextTasks(store=name, split_set="03", way=5, shots=1, queries=5, eval_queries=5, outside=outside)
    source = build_source(config, 0, torch.float32)
    assert isinstance(source, TextSource)
    tokenizer = source.load_tokenizer()
    specs = source.specs("test", 0, 8)
    episode = source.episodes(specs, [role for role in source.roles("test") if role != LABELS])
    texts = store.texts.to_pylist()
    expected = {tokenizer.decode(ids) for ids in tokenizer.encode(texts)}
    for batch in episode.roles.values():
        assert {tokenizer.decode(ids) for ids in batch.inputs.flatten(0, 1).tolist()} <= expected
        first, size = batch.inputs[..., 0], (batch.inputs != source.pad_id).sum(-1)
        last = batch.inputs.gather(-1, size[..., None] - 1)[..., 0]
        assert set(first.flatten().tolist()) == {101} and set(last.flatten().tolist()) == {102}
    lengths = np.array([len(ids) for ids in tokenizer.encode(texts)])
    assert float((lengths <= 64).mean()) > 0.98
    assert 0.05 < source.count_tokens(episode).padding < 0.4
