"""Texts of tasks, padded to buckets.

A task is as long as the smallest bucket that holds its own longest text, of all roles that are built; a shard is padded
to its longest task.

Shapes: T tasks, N texts of one role, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from distmeta.core.errors import UserError
from distmeta.core.types import Batch, TextSizes
from distmeta.models.petl.texts import places_for
from distmeta.models.petl.tokens import Tokenizer
from distmeta.tasks.tokens import EncodedTexts, Ids


class PaddedTexts:
    """The token ids of a store's texts, as tasks have them.

    Args:
        encoded: The token ids.
        buckets: Lengths in tokens, ascending. Longer texts are cut to the last one.
    """

    def __init__(self, encoded: EncodedTexts, buckets: Sequence[int]) -> None:
        self._encoded, self._buckets = encoded, np.asarray(buckets)

    def tokens(self, drawn: Mapping[str, Batch]) -> dict[str, Batch]:
        """Token ids [T, N, L] by role, of rows [T, N] that are the inputs of batches."""
        length = max(self._lengths([self._encoded.sizes[batch.inputs.numpy()] for batch in drawn.values()]))
        longest = int(self._buckets[-1])
        return {
            role: Batch(torch.from_numpy(self._encoded.padded(rows.inputs.numpy(), length, longest)), rows.targets)
            for role, rows in drawn.items()
        }

    def sizes(self, batches: Mapping[str, Batch]) -> tuple[TextSizes, ...]:
        """How long each of T tasks is by itself, from the token ids of its roles."""
        counts = {role: self._counts(batch) for role, batch in batches.items()}
        return tuple(
            TextSizes(length, tuple((role, places_for(each[task].tolist(), length)) for role, each in counts.items()))
            for task, length in enumerate(self._lengths(list(counts.values())))
        )

    def _counts(self, batch: Batch) -> Ids:
        counts: Ids = (batch.inputs != self._encoded.pad_id).sum(dim=-1).numpy()
        return counts

    def _lengths(self, sizes: Sequence[Ids]) -> tuple[int, ...]:
        """The bucket of each task, from the numbers of tokens [T, N] of each role."""
        longest = np.max([each.max(axis=1) for each in sizes], axis=0)
        places = np.minimum(np.searchsorted(self._buckets, longest), len(self._buckets) - 1)
        return tuple(self._buckets[places].tolist())


def check_template(tokenizer: Tokenizer, template: str, longest: int) -> None:
    """Raise UserError if a template leaves no token for a text."""
    taken = len(tokenizer.encode([template.replace("{}", "")])[0])
    if taken >= longest:
        what = f"it has {taken} tokens itself, but texts are cut to {longest}"
        raise UserError(what, where="tasks.template", allowed="a shorter one, or longer tasks.buckets")
