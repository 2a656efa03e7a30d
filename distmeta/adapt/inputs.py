"""What a user gives as examples, as tensors: numbers, or sentences as token ids.

Shapes: B examples, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.core.types import SUPPORT, TextSizes
from distmeta.methods.build import dtype_of
from distmeta.models.petl.texts import places_for
from distmeta.models.petl.tokens import Tokenizer, WordTokenizer, load_tokenizer
from distmeta.tasks.base import TaskSignature
from distmeta.tasks.labels import label_ids

Examples = npt.ArrayLike | Iterable[str]
MAX_TOGETHER = 256
"""Sentences that go through a network at a time, if it takes each one by itself."""


class Reader(ABC):
    """Turns examples into tensors."""

    @abstractmethod
    def read(self, values: Examples, what: str) -> Tensor:
        """Examples as a tensor [B, ...].

        Args:
            values: The examples.
            what: What they are, for messages.

        Raises:
            UserError: They are not examples of this kind.
        """

    def blocks(self, values: Examples, what: str) -> list[Tensor]:
        """The same in parts that fit into memory, at least one."""
        return [self.read(values, what)]

    def places(self, inputs: Tensor) -> int | None:
        """Tokens that examples fit into, end to end; None if they are no texts."""
        return None

    def names(self, values: Sequence[object], what: str) -> Tensor:
        """Names of classes as a tensor [C, ...], as they would go on behind an example.

        Args:
            values: C labels.
            what: What they are, for messages.

        Raises:
            UserError: They are no names of this kind.
        """
        raise UserError("only learners of texts read names of classes", where=what, allowed="sentences")

    def sizes(self, inputs: Tensor) -> TextSizes | None:
        """How large a support set of these examples is; None if they are no texts."""
        places = self.places(inputs)
        return None if places is None else TextSizes(inputs.shape[-1], ((SUPPORT, places),))


class Numbers(Reader):
    """Arrays of numbers.

    Args:
        shape: Shape of an example.
        dtype: Type of the tensor.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype

    @override
    def read(self, values: Examples, what: str) -> Tensor:
        return to_numbers(values, self._shape, self._dtype, what)


class Sentences(Reader):
    """Texts as token ids, padded to the smallest bucket that holds them, as the tasks of training are.

    Args:
        tokenizer: The tokenizer of the run.
        buckets: Lengths in tokens, ascending; longer texts are cut to the last one, and keep the tokens that end them.
        together: Texts that are given to the network at a time; None for all.
        template: What is put around every text, in place of `{}`.
    """

    def __init__(
        self, tokenizer: Tokenizer, buckets: Sequence[int], together: int | None, template: str = "{}"
    ) -> None:
        self._tokenizer, self._buckets, self._together = tokenizer, tuple(buckets), together
        self._closing, self._template = tokenizer.closing(template), template

    @override
    def read(self, values: Examples, what: str) -> Tensor:
        return self._padded(self._encode(_sentences(values, what), what))

    @override
    def blocks(self, values: Examples, what: str) -> list[Tensor]:
        ids = self._encode(_sentences(values, what), what)
        count = self._together or len(ids)
        return [self._padded(ids[start : start + count]) for start in range(0, len(ids), count)]

    @override
    def names(self, values: Sequence[object], what: str) -> Tensor:
        for value in values:
            if not isinstance(value, str):
                whole = f"label {value!r} is a {type(value).__name__}, but the learner reads the names of classes"
                raise UserError(whole, where=what, allowed="labels that are words")
        return label_ids(self._tokenizer, [str(value) for value in values], self._template, what)

    @override
    def places(self, inputs: Tensor) -> int | None:
        return places_for((inputs != self._tokenizer.pad_id).sum(-1).tolist(), inputs.shape[-1])

    def _encode(self, texts: list[str], what: str) -> list[list[int]]:
        ids = self._tokenizer.encode([self._template.replace("{}", text) for text in texts])
        if [] in ids:
            row = ids.index([])
            raise UserError(f"text {row} ({texts[row][:40]!r}) has no token", where=what, allowed="words")
        return [self._cut(each) for each in ids]

    def _cut(self, ids: list[int]) -> list[int]:
        longest, closing = self._buckets[-1], self._closing
        return ids if len(ids) <= longest else [*ids[: longest - len(closing)], *closing][:longest]

    def _padded(self, ids: list[list[int]]) -> Tensor:
        longest = max(map(len, ids))
        length = next(bucket for bucket in self._buckets if bucket >= longest)
        return torch.tensor([each + [self._tokenizer.pad_id] * (length - len(each)) for each in ids])


def reader_of(config: RunConfig, signature: TaskSignature, is_row_wise: bool, words: Sequence[str] | None) -> Reader:
    """How the examples of a learner are read.

    Args:
        config: The run that trained it.
        signature: Sizes of its tasks.
        is_row_wise: Whether the network takes each example by itself.
        words: Vocabulary of the tokenizer `words`.

    Raises:
        UserError: The tokenizer is missing, or is another one than that of the run.
    """
    if not isinstance(config.tasks, TextTasks):
        dtype = dtype_of(config) if signature.tokens is None else torch.int64
        return Numbers(signature.input_shape, dtype)
    tokenizer = _tokenizer(config.tasks.tokenizer, words)
    known = signature.tokens
    if known is None or (known.count, known.pad_id) != (tokenizer.vocab_size, tokenizer.pad_id):
        was = "none" if known is None else f"{known.count}, with {known.pad_id} for padding"
        what = f"the tokenizer has {tokenizer.vocab_size} token ids, with {tokenizer.pad_id} for padding"
        raise UserError(what, where="tasks.tokenizer", allowed=f"the tokenizer of the run ({was})")
    together = MAX_TOGETHER if is_row_wise else None
    return Sentences(tokenizer, config.tasks.buckets, together, config.tasks.template)


def _tokenizer(name: str, words: Sequence[str] | None) -> Tokenizer:
    if name != "words" and not name.startswith("words:"):
        return load_tokenizer(name)
    if words is None:
        what = f"the vocabulary of tokenizer '{name}' is not in the checkpoint"
        raise UserError(what, where="tasks.tokenizer", allowed="a checkpoint with words.json")
    return WordTokenizer(words)


def _sentences(values: Examples, what: str) -> list[str]:
    """A list of texts, checked.

    Raises:
        UserError: Not a list of texts, or a text that is empty or no UTF-8.
    """
    allowed = "a list of one or more sentences"
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UserError(f"is a {type(values).__name__}", where=what, allowed=allowed)
    try:
        texts = list(values)
    except TypeError as error:  # an array without an axis
        raise UserError(str(error), where=what, allowed=allowed) from None
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"entry {row} is a {type(text).__name__}", where=what, allowed="sentences")
        if not text.strip():
            raise UserError(f"text {row} is empty", where=what, allowed="sentences")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"text {row} is not UTF-8", where=what, allowed="sentences in UTF-8")
    if not texts:
        raise UserError("no sentence", where=what, allowed=allowed)
    return [str(text) for text in texts]


def to_numbers(values: object, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """Numbers as a tensor [B, *shape].

    Raises:
        UserError: Not numbers, or of another shape.
    """
    try:
        tensor = torch.from_numpy(np.array(values, dtype=np.float64)).to(dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"not an array of numbers ({error})", where=what, allowed="numbers") from None
    if tensor.shape[1:] != shape:
        allowed = f"[any number, {', '.join(map(str, shape))}]"
        raise UserError(f"shape {list(tensor.shape)}", where=what, allowed=allowed)
    return tensor
