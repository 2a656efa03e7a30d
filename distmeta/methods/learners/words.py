"""A head from the names of classes: each row is the mean of what predicts the words of a name.

Shapes: C classes, L tokens of a name, D features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def class_words(words: Callable[[Tensor], Tensor], ids: Tensor, pad_id: int) -> Tensor:
    """The mean vector [C, D] of the words of each name.

    Args:
        words: Vectors [..., D] of token ids [...] (`Backbone.words`).
        ids: int64 [C, L] token ids of the names, one or more in each, padded on the right.
        pad_id: Id of padding.
    """
    keep = ids != pad_id
    vectors = words(ids) * keep.unsqueeze(-1)
    return vectors.sum(-2) / keep.sum(-1, keepdim=True)
