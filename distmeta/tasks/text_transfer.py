"""All classes of a store of texts from few labelled ones of them, as token ids.

Shapes: T tasks, N texts of one role, L tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from typing_extensions import override

from distmeta.config.transfer import TextTransferTasks
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, TaskSpec, TextSizes, TokenIds
from distmeta.data.store import ClassStore
from distmeta.models.petl.tokens import Tokenizer, WordTokenizer, load_tokenizer
from distmeta.tasks.base import TaskSource
from distmeta.tasks.few_labels import FewLabels, Rows
from distmeta.tasks.padding import PaddedTexts, check_template
from distmeta.tasks.stored import SOURCE_OF
from distmeta.tasks.tokens import encoded_texts


class TextTransferSource(TaskSource):
    """One problem of few labelled texts. Inputs are int64 token ids [T, N, L], targets int64 [T, N] among C classes.

    Args:
        config: Numbers of examples, division, tokenizer, buckets, template.
        store: The store.
        seed: The run's seed, which also draws the labelled texts.

    Raises:
        UserError: The store holds no texts, or too few; there is no such tokenizer; or the template leaves no token for
            a text.
    """

    objective = "cross_entropy"

    def __init__(self, config: TextTransferTasks, store: ClassStore, seed: int) -> None:
        if store.kind != "text":
            allowed = f"a store of texts; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
            raise UserError(f"data '{store.name}' holds {store.kind}", where="tasks.store", allowed=allowed)
        self.seed, self.input_shape = seed, (config.buckets[-1],)
        self._config, self._store = config, store
        self._labels = FewLabels(config, store, seed, "tasks.store")
        self.classes = tuple(store.class_names)
        self.num_outputs = len(self.classes)
        self.train_outputs = dict.fromkeys((SUPPORT, QUERY), self.num_outputs)
        tokenizer = self.load_tokenizer()
        check_template(tokenizer, config.template, config.buckets[-1])
        self.tokens = TokenIds(tokenizer.vocab_size, tokenizer.pad_id, len(tokenizer.closing()))
        self.words = tokenizer.words if isinstance(tokenizer, WordTokenizer) else None
        self._padded = PaddedTexts(encoded_texts(store, tokenizer, config.template), config.buckets)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer; the vocabulary of `words` is that of the texts for training."""
        return load_tokenizer(self._config.tokenizer, self._training_texts)

    def _training_texts(self) -> list[str]:
        texts: list[str] = self._store.texts.take(self._labels.train).to_pylist()
        return [self._config.template.replace("{}", text) for text in texts]

    @override
    def specs(self, split: str, step: int, count: int) -> tuple[TaskSpec, ...]:
        specs = super().specs(split, step, count)
        return self._labels.in_turn(specs) if split == "val" else specs

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        rows = dict(zip((SUPPORT, QUERY), self._labels.rows(split, seeds), strict=True))
        return self._padded.tokens({role: self._batch(rows[role]) for role in roles})

    def _batch(self, rows: Rows) -> Batch:
        """Rows [T, N] of texts and their classes."""
        return Batch(torch.from_numpy(np.array(rows)), torch.from_numpy(self._store.labels_of(rows)))

    @override
    def sizes(self, batches: Mapping[str, Batch]) -> tuple[TextSizes, ...] | None:
        return self._padded.sizes(batches)
