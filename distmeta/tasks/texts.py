"""Few-shot tasks over a class store of texts, as token ids.

Tasks are padded to buckets (`distmeta.tasks.padding`). `Episode.sizes` says how long each task is, and into how many
places its texts fit end to end: most places of padded texts are padding, and networks of texts need not compute them.
Texts are drawn as images are, so that the same seeds give the same classes and examples whatever the tokenizer.

Out of scope: the texts of class `oos`, which is in no split, are the role `outside` of evaluation tasks. Validation
draws from the class's even rows and testing from its odd ones, so that a threshold is not chosen on texts that it is
tested on.

Names of classes: the role `labels` has the tokens of the names of a task's classes, in the order of the targets, as
they would go on behind a text. All tasks have the same length there, that of the store's longest name.

Shapes: T tasks, W ways, N texts of one role, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.tasks import TextTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import LABELS, OUTSIDE, QUERY, Batch, Episode, TextSizes, TokenIds
from distmeta.data.manifest import Kind
from distmeta.data.splits import OUTSIDE_CLASS
from distmeta.data.store import ClassStore
from distmeta.models.petl.tokens import Tokenizer, WordTokenizer, load_tokenizer
from distmeta.tasks.fewshot import Ids, task_size
from distmeta.tasks.images import StoreSource
from distmeta.tasks.labels import label_ids
from distmeta.tasks.padding import PaddedTexts, check_template
from distmeta.tasks.stored import rows_of, split_set_of
from distmeta.tasks.tokens import encoded_texts


@dataclass(frozen=True)
class TokenCount:
    """Tokens of an episode, and the places that they take up when each task has its own length. Sums over episodes add.

    Attributes:
        tokens: Places that are no padding.
        places: Places of all texts.
    """

    tokens: int
    places: int

    @property
    def padding(self) -> float:
        """Share of the places that are padding."""
        return 1.0 - self.tokens / self.places if self.places else 0.0


class TextSource(StoreSource):
    """Few-shot tasks over an open store of texts. Inputs are int64 token ids [T, N, L], targets int64 [T, N].

    Args:
        config: Ways, shots, queries, split set, tokenizer, buckets, template.
        store: The store.
        seed: The run's seed.
        dtype: Not used: token ids are int64.

    Attributes:
        pad_id: Id of padding, which occurs in no text.
        vocab_size: Number of ids of the tokenizer.

    Raises:
        UserError: The store holds no texts, lacks the split set, has too few classes or examples, or no out-of-scope
            class although `outside` is set; there is no such tokenizer; or the template leaves no token for a text.
    """

    kind: Kind = "text"
    _config: TextTasks

    def __init__(self, config: TextTasks, store: ClassStore, seed: int, dtype: torch.dtype) -> None:
        super().__init__(config, store, seed, dtype)
        self.input_shape = (config.buckets[-1],)
        tokenizer = self.load_tokenizer()
        self.pad_id, self.vocab_size = tokenizer.pad_id, tokenizer.vocab_size
        self.tokens = TokenIds(tokenizer.vocab_size, tokenizer.pad_id, len(tokenizer.closing()))
        self.train_outputs = {**self.train_outputs, LABELS: self.train_outputs[QUERY]}
        check_template(tokenizer, config.template, config.buckets[-1])
        self.words = tokenizer.words if isinstance(tokenizer, WordTokenizer) else None
        self._padded = PaddedTexts(encoded_texts(store, tokenizer, config.template), config.buckets)
        self._outside = self._outside_rows(config) if config.outside else {}

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer; the vocabulary of `words` is that of the training classes."""
        return load_tokenizer(self._config.tokenizer, self._training_texts)

    def _training_texts(self) -> list[str]:
        texts: list[str] = self._store.texts.take(rows_of(self._store, self._splits["train"])).to_pylist()
        return [self._config.template.replace("{}", text) for text in texts]

    @cached_property
    def _label_table(self) -> Tensor:
        """The token ids [C, L] of the names of all classes of the store."""
        tokenizer, names = self.load_tokenizer(), self._store.class_names
        return label_ids(tokenizer, names, self._config.template, f"data '{self._store.name}'")

    def _outside_rows(self, config: TextTasks) -> dict[str, Ids]:
        """Rows of out-of-scope texts for each split that is evaluated."""
        store = self._store
        if OUTSIDE_CLASS not in store.class_names:
            what, allowed = f"data '{store.name}' has no class '{OUTSIDE_CLASS}'", "false, or data with such a class"
            raise UserError(what, where="tasks.outside", allowed=allowed)
        index = store.class_names.index(OUTSIDE_CLASS)
        if any(index in classes for classes in self._splits.values()):
            what = f"class '{OUTSIDE_CLASS}' of data '{store.name}' is in split set '{self._split_set()}'"
            raise UserError(what, where="tasks.outside", allowed="a split set without it")
        start, stop = store.class_offsets[index : index + 2]
        rows = {"val": np.arange(start, stop, 2), "test": np.arange(start + 1, stop, 2)}
        count = config.way * config.eval_queries
        fewest = min(map(len, rows.values()))
        if count > fewest:
            what = f"{count} out-of-scope texts (way * eval_queries), but data '{store.name}' has {fewest} for a split"
            raise UserError(what, where="tasks.eval_queries", allowed=f"at most {fewest // config.way}")
        return rows

    def _split_set(self) -> str:
        return split_set_of(self._config.split_set, self._store)

    @override
    def roles(self, split: str) -> tuple[str, ...]:
        return (*super().roles(split), OUTSIDE) if split in self._outside else super().roles(split)

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        inside = [role for role in roles if role not in (OUTSIDE, LABELS)]
        drawn = dict(super().batches(split, seeds, inside)) if inside else {}
        if OUTSIDE in roles:
            drawn[OUTSIDE] = self._draw_outside(split, seeds)
        names = {LABELS: self._labels(split, seeds)} if LABELS in roles else {}
        return self._padded.tokens(drawn) | names if drawn else names

    def _labels(self, split: str, seeds: Uint64) -> Batch:
        classes = self._choose_classes(split, seeds, task_size(self._config, split)[0])
        return Batch(self._label_table[torch.from_numpy(self._splits[split][classes])])

    def _draw_outside(self, split: str, seeds: Uint64) -> Batch:
        """As many out-of-scope texts as an evaluation task has queries."""
        way, _, queries = task_size(self._config, split)
        rows = self._outside[split]
        return Batch(torch.from_numpy(rows[seeding.choice(seeds, OUTSIDE, len(rows), way * queries)]))

    @override
    def _images(self, classes: Ids, examples: Ids) -> npt.NDArray[Any]:
        """The rows of the texts: their tokens are looked up when the length of all roles is known."""
        return np.ascontiguousarray(examples, dtype=np.int64)

    @override
    def sizes(self, batches: Mapping[str, Batch]) -> tuple[TextSizes, ...] | None:
        texts = {role: batch for role, batch in batches.items() if role != LABELS}
        return self._padded.sizes(texts) if texts else None

    def count_tokens(self, episode: Episode) -> TokenCount:
        """Count the tokens of an episode of T tasks, and the places of its texts. Names of classes do not count.

        The places are those that a network computes which lays texts end to end.
        """
        batches = [batch for role, batch in episode.roles.items() if role != LABELS]
        tokens = sum(int((batch.inputs != self.pad_id).sum()) for batch in batches)
        places = sum(count for sizes in episode.sizes or () for role, count in sizes.places if role in episode.roles)
        return TokenCount(tokens, places)
