"""All classes of a store of texts from few labelled ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distmeta.config import TextTransferTasks
from distmeta.core.errors import UserError
from distmeta.core.types import Episode
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks import build_source
from distmeta.tasks.text_transfer import TextTransferSource

CLASSES, TEXTS = 3, 10


@pytest.fixture
def store(tmp_path) -> ClassStore:
    """Text e of class c is `c<c> e<e>` and c + e further words; the last three of a class are for tests."""
    texts = [
        " ".join([f"c{c}", f"e{e}", *(f"w{k}" for k in range(c + e))]) for c in range(CLASSES) for e in range(TEXTS)
    ]
    return write_store(tmp_path / "intents", texts, class_names=list("abc"), class_counts=[TEXTS] * CLASSES)


def source_of(store: ClassStore, seed: int = 0, **fields: object) -> TextTransferSource:
    given = {"store": str(store.path), "examples": 9, "test_share": 0.3, "tokenizer": "words", "folds": 3, **fields}
    source = build_source(TextTransferTasks.model_validate(given), seed, torch.float32)
    assert isinstance(source, TextTransferSource)
    return source


def texts_of(source: TextTransferSource, episode: Episode, role: str) -> list[list[str]]:
    tokenizer = source.load_tokenizer()
    return [[tokenizer.decode(ids) for ids in task] for task in episode[role].inputs.tolist()]


def test_labelled_texts_are_divided_and_test_texts_are_unseen(store: ClassStore) -> None:
    source = source_of(store)
    test = source.episodes(source.specs("test", 0, 1))
    (support,), (query,) = texts_of(source, test, "support"), texts_of(source, test, "query")
    assert (len(set(support)), len(query)) == (9, 9)
    assert np.bincount(test.support.targets[0].numpy()).tolist() == [3, 3, 3]
    assert test.query.targets[0].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    train = source.episodes(source.specs("train", 0, 20))
    for fitted, judged, labels in zip(
        texts_of(source, train, "support"), texts_of(source, train, "query"), train.support.targets, strict=True
    ):
        assert (len(fitted), len(judged)) == (4, 5)
        assert {*fitted, *judged} == set(support)
        assert [f"c{label}" for label in labels.tolist()] == [text.split()[0] for text in fitted]
    held = source.episodes(source.specs("val", 0, 3))
    folds = texts_of(source, held, "query")
    assert {text for fold in folds for text in fold} == set(support)
    assert all(len(fold) == 3 and len({text.split()[0] for text in fold}) == 3 for fold in folds)


def test_a_task_is_padded_to_its_own_bucket(store: ClassStore) -> None:
    source = source_of(store, buckets=[6, 8, 16], support=1, queries=1)
    specs = source.specs("train", 0, 12)
    together = source.episodes(specs)
    assert together.sizes is not None
    for index, spec in enumerate(specs):
        alone = source.episodes([spec])
        length = alone.support.inputs.shape[-1]
        assert alone.sizes is not None
        assert alone.sizes[0].length == together.sizes[index].length == length
        assert torch.equal(alone.support.inputs[0], together.support.inputs[index, :, :length])
    assert {size.length for size in together.sizes} > {8}


def test_labelled_texts_are_drawn_by_the_runs_seed(store: ClassStore) -> None:
    def labelled(seed: int) -> set[str]:
        source = source_of(store, seed)
        return set(texts_of(source, source.episodes(source.specs("test", 0, 1)), "support")[0])

    assert labelled(0) == labelled(0)
    assert len({tuple(sorted(labelled(seed))) for seed in range(5)}) > 3


def test_what_cannot_be_divided_is_refused(store: ClassStore, vectors: ClassStore) -> None:
    with pytest.raises(UserError, match=r"tasks\.store: data 'vectors' holds vector; allowed: a store of texts"):
        source_of(vectors)
    with pytest.raises(UserError, match=r"tasks\.store: data 'intents' does not tell which of its examples"):
        source_of(store, test_share=None)
    with pytest.raises(UserError, match=r"tasks\.examples: 24 labelled examples of data 'intents'"):
        source_of(store, examples=24)
    with pytest.raises(UserError, match=r"tasks\.template: it has 10 tokens itself"):
        source_of(store, buckets=[4, 8], template="one two three four five six {} seven eight")
