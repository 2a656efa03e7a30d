"""Names of classes as a role of text tasks, and templates around texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta.config import RunConfig
from distmeta.config.base import to_user_error
from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, QUERY, SUPPORT
from distmeta.data.store import ClassStore
from distmeta.methods import label_words
from distmeta.methods.build import build_algorithm
from distmeta.models.petl.tokens import FastTokenizer, load_tokenizer
from distmeta.tasks.labels import label_ids, labelled_lines
from distmeta.tasks.texts import TextSource

from ...decoders import GPT2, INTENTS, TEMPLATE, texts_in, transformer

pytest.importorskip("tokenizers", reason="the tokenizer is one of its own")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return texts_in(tmp_path_factory.mktemp("labels"))


def source_of(fields: dict[str, Any], **changes: Any) -> TextSource:
    config = TextTasks.model_validate({**fields, **changes})
    return TextSource(config, ClassStore.open(Path(config.store)), 0, torch.float32)


def spoken(source: TextSource, ids: torch.Tensor) -> list[list[str]]:
    decode = source.load_tokenizer().decode
    return [[decode(row) for row in task] for task in ids.tolist()]


@pytest.mark.parametrize("split", ["train", "test"])
def test_names_are_in_the_order_of_the_targets(fields: dict[str, Any], split: str) -> None:
    source = source_of(fields)
    intent_of = {TEMPLATE.replace("{}", text.lower()): name for name, texts in INTENTS.items() for text in texts}
    episode = source.episodes(source.specs(split, 0, 12), (SUPPORT, QUERY, LABELS))
    names = spoken(source, episode[LABELS].inputs)
    for role in (SUPPORT, QUERY):
        for task, texts in enumerate(spoken(source, episode[role].inputs)):
            targets = episode[role].targets
            assert targets is not None
            for text, target in zip(texts, targets[task].tolist(), strict=True):
                text = text.replace(" :", ":")
                assert names[task][target] == intent_of[text].replace("_", " ")
    assert episode[LABELS].targets is None


def test_names_depend_on_no_bucket_and_no_other_role(fields: dict[str, Any]) -> None:
    expected = None
    for buckets in ((12,), (16, 24, 32), (64,)):
        source = source_of(fields, buckets=buckets)
        specs = source.specs("test", 3, 5)
        alone = source.episodes(specs, (LABELS,))
        assert alone.sizes is None
        every = source.episodes(specs, (SUPPORT, QUERY, LABELS))
        expected = alone[LABELS].inputs if expected is None else expected
        assert torch.equal(alone[LABELS].inputs, expected)
        assert torch.equal(every[LABELS].inputs, expected)
        assert every.sizes == source.episodes(specs).sizes
        assert source.count_tokens(every) == source.count_tokens(source.episodes(specs))
        for index, spec in enumerate(specs):
            chosen = every.select([index])[LABELS].inputs
            assert torch.equal(source.episodes([spec], (LABELS,))[LABELS].inputs, chosen)


def test_names_are_encoded_only_if_a_learner_reads_them(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distmeta.tasks.texts.label_ids", lambda *_: pytest.fail("encoded"))
    source = source_of(fields)
    assert set(source.episodes(source.specs("train", 0, 2)).roles) == {SUPPORT, QUERY}


def test_names_go_on_behind_a_text_as_pairs_of_bytes_do() -> None:
    """A tokenizer of bytes gives the first word of a name its space, as it has in a line."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = ["[PAD]", "a", "Ġintent", ":", "Ġpay", "Ġfine", "pay", "Ġ"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizer
    tokenizer = FastTokenizer(backend, ["[PAD]"], "bytes")
    ids = label_ids(tokenizer, ["pay_fine", "pay"], "{} intent:", "here")
    assert ids.tolist() == [[4, 5], [4, 0]]
    with pytest.raises(UserError, match=r"^here: class name '__' has no word; allowed: names of words"):
        label_ids(tokenizer, ["__"], "{} intent:", "here")


def test_special_tokens_are_no_part_of_a_name() -> None:
    tokenizer = load_tokenizer("words", lambda: ["pay my fine"])
    ids = label_ids(tokenizer, ["pay_fine", "my"], "{}", "here")
    assert [tokenizer.decode(row) for row in ids.tolist()] == ["pay fine", "my"]
    assert ids.shape == (2, 2)


def test_a_template_is_around_every_text_and_cut_texts_keep_its_end(fields: dict[str, Any]) -> None:
    plain, framed = source_of(fields, template="{}"), source_of(fields, buckets=(9,))
    specs = plain.specs("train", 0, 6)
    texts = spoken(plain, plain.episodes(specs).query.inputs)
    cut = 0
    for task, rows in enumerate(spoken(framed, framed.episodes(specs).query.inputs)):
        for text, within in zip(texts[task], rows, strict=True):
            assert within.startswith("query :") and within.endswith("intent :")
            middle = within.removeprefix("query :").removesuffix("intent :").strip()
            assert text.startswith(middle)
            cut += text != middle
    assert cut


@pytest.mark.parametrize("template", ["query: intent:", "{} or {}", "query: {} ", ""])
def test_a_template_has_one_place_for_a_text(fields: dict[str, Any], template: str) -> None:
    with pytest.raises(ValueError) as caught:
        TextTasks.model_validate({**fields, "template": template})
    line = str(to_user_error(caught.value))  # type: ignore[arg-type]
    assert "template: " in line and "is no template; allowed: a text with '{}' once" in line


def test_a_template_leaves_tokens_for_texts(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^tasks\.template: it has 4 tokens itself, but texts are cut to 4; allowed"):
        source_of(fields, buckets=(4,))


def test_lines_are_the_training_texts_with_the_names_of_their_classes(fields: dict[str, Any]) -> None:
    lines = labelled_lines(TextTasks.model_validate(fields))
    assert len(lines) == 12
    assert lines[0] == "query: how long may I keep a book intent: renew loan"
    assert not any(line.endswith("opening hours") for line in lines), "a class of another split"


def run_config(fields: dict[str, Any], model: dict[str, Any], **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "words", "tasks": fields, "model": model, "algorithm": label_words(), **sections}
    )


BERT = {
    "model_type": "bert",
    "vocab_size": 160,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
PHI = {**BERT, "model_type": "phi"}
BERT_MODEL = {"kind": "transformer", "architecture": BERT, "pooling": "last"}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "encoder": ({}, BERT_MODEL, "algorithm.learner.head: an encoder predicts no next word; allowed: a decoder"),
    "encoder as a decoder": (
        {},
        {**BERT_MODEL, "attention": "causal"},
        "algorithm.learner.head: a network of kind 'bert' has no scores of words that can be used; allowed: a decoder",
    ),
    "bias of words": (
        {},
        transformer(PHI, petl=({"kind": "bitfit"},)),
        "algorithm.learner.head: a network of kind 'phi' has no scores of words that can be used",
    ),
    "pooling": ({}, transformer(pooling="mean"), "allowed: model.pooling 'last' and model.normalise false"),
    "length": ({}, transformer(normalise=True), "allowed: model.pooling 'last' and model.normalise false"),
    "end of texts": (
        {"tokenizer": "words:60"},
        transformer({**GPT2, "vocab_size": 60}),
        "tasks.tokenizer: the tokenizer ends every text with 1 special tokens",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_predicts_no_word_is_refused_in_one_line(fields: dict[str, Any], name: str) -> None:
    pytest.importorskip("transformers")
    changes, model, expected = REFUSED[name]
    config = run_config({**fields, **changes}, model)
    with pytest.raises(UserError) as caught:
        build_algorithm(config, source_of(config.tasks.model_dump()).signature)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_tasks_without_texts_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        run_config({"source": "glyphs"}, {"kind": "conv4"})
    assert "'label_words' needs texts, but tasks.source 'glyphs' has none" in str(caught.value)


def test_a_folder_without_its_last_layer_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = {name: value for name, value in GPT2.items() if name != "model_type"}
    config = transformers.GPT2Config(tie_word_embeddings=False, pad_token_id=0, **options)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "body")
    model = {**transformer(), "architecture": {}, "pretrained": str(tmp_path / "body")}
    with pytest.raises(UserError, match=r"^model\.pretrained: the folder has no weights 'lm_head\.weight'"):
        build_algorithm(run_config(fields, model), source_of(fields).signature)
