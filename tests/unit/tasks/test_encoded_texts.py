"""The file of the token ids of a store: made once, checked when it is opened, made again when it is damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.core.paths import data_home
from distmeta.data.store import ClassStore, write_store
from distmeta.models.petl.tokens import WordTokenizer
from distmeta.tasks.texts import TextSource
from distmeta.tasks.tokens import EncodedTexts, encoded_texts

from ...logged import Logged


def source_of(store: ClassStore, tokenizer: str = "words") -> TextSource:
    config = TextTasks(store=str(store.path), way=3, shots=2, queries=2, eval_queries=3, tokenizer=tokenizer)
    return TextSource(config, store, 0, torch.float32)


def test_tokens_are_encoded_once_and_again_when_the_file_is_damaged(
    texts: ClassStore, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    first = source_of(texts)
    specs = first.specs("test", 0, 3)
    expected = first.episodes(specs).query.inputs
    (file,) = (data_home() / "tokens").glob("*.arrow")
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("distmeta.tasks.tokens._encode", lambda *_: pytest.fail("encoded again"))
        assert torch.equal(source_of(texts).episodes(specs).query.inputs, expected)
    del first  # its map would change with the file
    for damaged in (b"", content[: len(content) // 2], b"x" * len(content)):
        file.write_bytes(damaged)
        assert torch.equal(source_of(texts).episodes(specs).query.inputs, expected)
        assert file.read_bytes() == content
    assert logged.text.count("is damaged and is made again") == 3
    source_of(texts, tokenizer="words:6")
    assert len(list((data_home() / "tokens").glob("*.arrow"))) == 2
    assert not list((data_home() / "tokens").glob("*.tmp"))


def test_a_file_that_holds_padding_or_an_empty_text_is_refused(texts: ClassStore, tmp_path: Path) -> None:
    tokenizer = WordTokenizer.of(["a"])
    encoded_texts(texts, tokenizer)
    (file,) = (data_home() / "tokens").glob("*.arrow")
    EncodedTexts(file, texts.num_examples, tokenizer.pad_id, 5, ())
    with pytest.raises(ValueError, match="texts without tokens, or padding"):
        EncodedTexts(file, texts.num_examples, 1, 5, ())
    with pytest.raises(ValueError, match=f"holds {texts.num_examples} of 3 texts"):
        EncodedTexts(file, 3, tokenizer.pad_id, 5, ())
    with pytest.raises(ValueError, match="ids that are not in 0 to 2"):
        EncodedTexts(file, texts.num_examples, tokenizer.pad_id, 3, ())


class _Silent(WordTokenizer):
    """A tokenizer that has no special tokens, and no token for `a`."""

    def encode(self, texts):
        return [[index for index in ids if index > 3] for ids in super().encode(texts)]


def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "few", ["b", "b a", "a"], class_names=["x"], class_counts=[3])
    with pytest.raises(UserError, match=r"data 'few': text 2 \('a'\) has no token; allowed: another tokenizer"):
        encoded_texts(store, _Silent(["b"]))


@pytest.mark.slow
@pytest.mark.thorough
def test_several_processes_may_encode_at_once(texts: ClassStore, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom distmeta.data.store import ClassStore\n"
        "from distmeta.models.petl.tokens import WordTokenizer\nfrom distmeta.tasks.tokens import encoded_texts\n"
        "store = ClassStore.open(sys.argv[1])\nids = encoded_texts(store, WordTokenizer.of(['a b z']))\n"
        "print(int(ids.sizes.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(texts.path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    lengths = [len(text.split()) + 2 for text in texts.texts.to_pylist()]
    assert sums == [sum(lengths)] * 3
    (file,) = (data_home() / "tokens").glob("*.arrow")
    assert sorted(path.suffix for path in file.parent.iterdir()) == [".arrow", ".lock"]
