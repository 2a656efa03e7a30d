"""Sentences: adapting, predicting and confidences of text learners, and the vocabulary that travels in checkpoints."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distmeta
from distmeta.adapt.inputs import Sentences
from distmeta.adapt.load import AdaptableLearner
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Batch
from distmeta.data.store import write_store
from distmeta.methods.build import build_evaluators
from distmeta.models.petl.texts import places_for
from distmeta.models.petl.tokens import WordTokenizer
from distmeta.tasks import build_source
from distmeta.training import train

from ...adapting import adapt, predict

INTENTS = {
    "loan": ["how long may I keep a book", "extend my loan of the atlas please", "renew the book I have at home"],
    "room": ["is a reading room free", "book a quiet room for two", "where is the group room"],
    "fine": ["why must I pay a fee", "how much is the fine for late books", "I paid my fine twice"],
    "card": ["my card is lost", "the card does not open the door", "I need a new card"],
}
SUPPORT = [text for texts in INTENTS.values() for text in texts[:2]]
LABELS = [name for name, texts in INTENTS.items() for _ in texts[:2]]
QUERIES = ["I paid a late fee", "book a room", "keep the atlas", "the door needs a new card, and this is rather long"]


def run_config(folder: Path, **changes: Any) -> RunConfig:
    config = {
        "name": "words",
        "tasks": {"source": "texts", "store": str(folder / "store"), "tokenizer": "words", "way": 2, "shots": 1},
        "model": {
            "kind": "transformer",
            "architecture": {
                "model_type": "bert",
                "vocab_size": 64,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "max_position_embeddings": 64,
            },
            "normalise": True,
        },
        "algorithm": {"learner": {"kind": "prototype", "scale": 10.0}},
        "engine": {"dtype": "float64"},
        "train": {"steps": 2, "tasks_per_step": 2},
        "runtime": {"executor": "local", "shard_size": 1},
        "evaluation": {"final_tasks": 0},
        "tracking": {"kind": "none"},
        "checkpoint": {"path": str(folder / "runs")},
    }
    config["tasks"] |= {"queries": 1, "eval_queries": 1, "buckets": (8, 16)}
    return RunConfig.model_validate({**config, **changes})


def store_in(folder: Path) -> None:
    rows = [text for texts in INTENTS.values() for text in texts]
    splits = {"all": {"train": [0, 1], "val": [], "test": [2, 3]}}
    write_store(folder / "store", rows, class_names=list(INTENTS), class_counts=[3] * 4, splits=splits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run whose data is gone."""
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(folder / "home"))
        store_in(folder)
        checkpoint = Path(train(run_config(folder), quiet=True).checkpoint)
    shutil.rmtree(folder / "store")
    return checkpoint


@pytest.fixture
def learner(trained: Path) -> AdaptableLearner:
    return distmeta.load(str(trained))


def test_predictions_are_those_of_the_learner_on_the_ids_of_the_words(trained: Path, learner: AdaptableLearner) -> None:
    """Computed again by another way: ids from the vocabulary of the training texts, in rows, without the reader."""
    words = WordTokenizer.of(INTENTS["loan"] + INTENTS["room"])
    names = sorted(INTENTS)

    def padded(texts: list[str]) -> torch.Tensor:
        ids = torch.zeros(len(texts), 16, dtype=torch.int64)
        for row, tokens in enumerate(words.encode(texts)):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    support = Batch(padded(SUPPORT), torch.tensor([names.index(label) for label in LABELS]))
    one = build_evaluators(
        learner.config, learner._signature.__class__((16,), 4, {"support": 4, "query": 4}, "cross_entropy")
    )["inductive"]
    meta = learner._params
    expected = predict(one, meta, adapt(one, meta, support), support, padded(QUERIES))
    predictor = learner.adapt(SUPPORT, LABELS)
    np.testing.assert_allclose(predictor.outputs(QUERIES), expected.numpy(), rtol=1e-10, atol=1e-12)
    assert predictor(QUERIES).tolist() == [names[int(row)] for row in expected.argmax(1)]
    np.testing.assert_allclose(predictor.confidences(QUERIES), torch.softmax(expected, 1).numpy(), rtol=1e-10)
    assert predictor.classes is not None and predictor.classes.tolist() == names


def test_any_iterable_of_sentences_is_taken(learner: AdaptableLearner) -> None:
    expected = learner.adapt(SUPPORT, LABELS).outputs(QUERIES)
    for support, queries in ((np.array(SUPPORT), np.array(QUERIES)), (tuple(SUPPORT), iter(QUERIES))):
        assert np.array_equal(learner.adapt(support, LABELS).outputs(queries), expected)


def test_a_prediction_depends_on_its_own_text_alone(learner: AdaptableLearner) -> None:
    predictor = learner.adapt(SUPPORT, LABELS)
    together = predictor.outputs(QUERIES * 150)  # 600 texts, in several blocks
    for row, query in enumerate(QUERIES):
        np.testing.assert_allclose(together[row::4], np.repeat(predictor.outputs([query]), 150, 0), rtol=1e-10)


def test_texts_lie_end_to_end(learner: AdaptableLearner) -> None:
    """The network sees the places of the texts' tokens, several texts in a row, of support set and queries."""
    shapes: list[tuple[int, ...]] = []
    network = learner.adapt(SUPPORT, LABELS)._ops._learner.backbone.network

    def record(_: Any, __: Any, named: dict[str, Any]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    handle = network.register_forward_pre_hook(record, with_kwargs=True)
    try:
        learner.adapt(SUPPORT, LABELS).outputs(QUERIES)
    finally:
        handle.remove()
    words = WordTokenizer.of(SUPPORT)
    for shape, texts in zip(shapes[-2:], (SUPPORT, QUERIES), strict=True):  # before them, the network was tried out
        counts = [len(ids) for ids in words.encode(texts)]
        assert shape[0] * shape[1] == places_for(counts, max(counts))


def test_long_texts_are_cut_and_keep_their_end() -> None:
    tokenizer = WordTokenizer(["a", "b"])
    reader = Sentences(tokenizer, (4, 6), None)
    ids = reader.read(["a b a b a b a b", "a"], "query inputs")
    assert ids.tolist() == [[2, 4, 5, 4, 5, 3], [2, 4, 3, 0, 0, 0]]
    assert reader.read(["a"], "query inputs").tolist() == [[2, 4, 3, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("one sentence", "support inputs: is a str; allowed: a list of one or more sentences"),
        (7, "support inputs: is a int"),
        (np.array("one"), "support inputs: iteration over a 0-d array"),
        ([], "support inputs: no sentence"),
        (["fine", ""], "support inputs: text 1 is empty"),
        (["fine", " \n"], "support inputs: text 1 is empty"),
        (["fine", None], "support inputs: entry 1 is a NoneType"),
        ([["fine"]], "support inputs: entry 0 is a list"),
        ([[2, 4, 3]], "support inputs: entry 0 is a list"),
        (["\ud800 fine"], "support inputs: text 0 is not UTF-8"),
    ],
)
def test_what_is_no_list_of_sentences_is_told(learner: AdaptableLearner, values: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        learner.adapt(values, ["x"] * 2)
    assert str(caught.value).startswith(message)


def test_regression_has_no_confidences() -> None:
    from .test_load import WAVES, initial, wave_config

    config = wave_config()
    predictor = AdaptableLearner(config, WAVES, initial(config, WAVES)).adapt([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(UserError, match="regression has no classes"):
        predictor.confidences([[0.5]])


# --- the vocabulary in the checkpoint ---


def test_the_vocabulary_is_that_of_the_training_classes(trained: Path) -> None:
    words = json.loads((trained / "words.json").read_text())
    assert tuple(words) == WordTokenizer.of(INTENTS["loan"] + INTENTS["room"]).words
    assert "fee" not in words and "room" in words
    state = json.loads((trained / "state.json").read_text())
    assert state["sha256"]["words.json"] == hashlib.sha256((trained / "words.json").read_bytes()).hexdigest()


def vouch(folder: Path) -> None:
    """Make the digest of the vocabulary that of its file."""
    state = json.loads((folder / "state.json").read_text())
    state["sha256"]["words.json"] = hashlib.sha256((folder / "words.json").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))


def unlisted(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    del state["sha256"]["words.json"]
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("content", "vouched", "message"),
    [
        (b'["a"]', False, "words.json: the file is truncated or corrupted"),
        (b'["a"]', True, "tasks.tokenizer: the tokenizer has 5 token ids"),
        (b'["a", "a"]', True, "words.json: it holds no list of distinct words"),
        (b'["a", 1]', True, "words.json: it holds no list of distinct words"),
        (b"{}", True, "words.json: it holds no list of distinct words"),
        (b'["a"', True, "words.json: not JSON"),
        (b"[" * 100_000, True, "words.json: not JSON"),
        (b"\xff", True, "words.json: not JSON"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(
    trained: Path, tmp_path: Path, content: bytes, vouched: bool, message: str
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "damaged"))
    (folder / "words.json").write_bytes(content)
    if vouched:
        vouch(folder)
    with pytest.raises(UserError) as caught:
        distmeta.load(str(folder))
    assert message in str(caught.value)


def test_a_missing_vocabulary_is_one_line(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "damaged"))
    (folder / "words.json").unlink()
    with pytest.raises(UserError, match=r"words\.json"):
        distmeta.load(str(folder))
    unlisted(folder)
    with pytest.raises(UserError, match="the vocabulary of tokenizer 'words' is not in the checkpoint"):
        distmeta.load(str(folder))


def test_a_resumed_run_keeps_the_vocabulary(tmp_path: Path) -> None:
    store_in(tmp_path)
    config = run_config(tmp_path)
    source = build_source(config.tasks, config.seed, torch.float64)
    train(config, quiet=True)
    longer = run_config(tmp_path, train={"steps": 3, "tasks_per_step": 2})
    resumed = train(longer, quiet=True, resume=True)
    assert tuple(json.loads((Path(resumed.checkpoint) / "words.json").read_text())) == source.words
