"""Names of classes as words that may come behind a text: token ids, and lines that a decoder is pre-trained on.

Shapes: C classes, L tokens of the longest name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.data.catalog import open_store
from distmeta.models.petl.tokens import Tokenizer
from distmeta.tasks.stored import split_set_of


def label_ids(tokenizer: Tokenizer, names: Sequence[str], template: str, where: str) -> Tensor:
    """Token ids of names as they go on behind a text.

    Args:
        tokenizer: The tokenizer of the texts.
        names: C names; underscores are read as spaces.
        template: What is put around texts.
        where: Where the names are from, for messages.

    Returns:
        int64 [C, L], padded on the right.

    Raises:
        UserError: A name has no token.
    """
    spoken, allowed = [_spoken(name) for name in names], "names of words that the tokenizer knows"
    if "" in spoken:
        raise UserError(f"class name {names[spoken.index('')]!r} has no word", where=where, allowed=allowed)
    try:
        ids = tokenizer.continuations(spoken, template.replace("{}", "a"))
    except ValueError as error:
        raise UserError(f"class name {error}", where=where, allowed=allowed) from None
    longest = max(map(len, ids))
    return torch.tensor([each + [tokenizer.pad_id] * (longest - len(each)) for each in ids])


def labelled_lines(config: TextTasks) -> list[str]:
    """The texts of the training classes within the template, each followed by the name of its class.

    They are a corpus that teaches a decoder what names of classes mean (`distmeta.models.petl.decoder`).

    Raises:
        UserError: There is no such store or split set.
    """
    store = open_store(config.store)
    lines: list[str] = []
    for index in store.split(split_set_of(config.split_set, store), "train").tolist():
        start, stop = store.class_offsets[index : index + 2].tolist()
        texts, name = store.texts.slice(start, stop - start).to_pylist(), _spoken(store.class_names[index])
        lines += [f"{config.template.replace('{}', text)} {name}" for text in texts]
    return lines


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
