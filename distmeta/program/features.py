"""Scoring by features that are computed once: for learners that see examples through these alone.

Test tasks draw the same few thousand examples again and again. A network that treats each example by itself gives it
the same features in every task, as long as nothing in the body is adapted (class means, ridge regression).

Shapes: T tasks, B examples of a role, D features, U distinct examples.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.lanes import Lanes
from distmeta.engine.precision import Matmul, products
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD, Backbone, Frame
from distmeta.models.network import Network

TABLE = "features.table"
"""Name of the features [U, D] among the parameters."""
BATCH = 8
"""Examples of a forward pass, always so many: the bits of an example's features do not depend on the others'."""
WIDTH = 8
"""Texts are padded to a multiple of it."""


def reads_table(learner: Learner) -> bool:
    """Whether a learner gives the same outputs with features that were computed before."""
    return learner.reads_features_only and learner.backbone.is_row_wise and not learner.backbone.is_random


class FeatureTable:
    """The features of all examples that were seen with the current meta-parameters.

    Args:
        learner: Whose backbone computes them.
        lanes: Threads that compute them.
        matmul: Precision of products.

    Attributes:
        learner: The same learner, reading the table: an example is its row, int64 [1].
    """

    def __init__(self, learner: Learner, lanes: Lanes, matmul: Matmul) -> None:
        self._backbone, self._lanes, self._matmul = learner.backbone, lanes, matmul
        self.learner = copy.copy(learner)
        self.learner.backbone = _Table(learner.backbone)
        self._meta: Params | None = None
        self._rows: dict[bytes, int] = {}
        self._table: list[Tensor] = []

    def look_up(self, meta: Params, episodes: Episode) -> tuple[Params, Episode]:
        """Meta-parameters with the table, and the tasks with rows of it as their examples.

        Args:
            meta: Meta-parameters and running statistics.
            episodes: T tasks.
        """
        if meta is not self._meta:
            self._meta, self._rows, self._table = meta, {}, []
        examples = {role: self._examples(batch.inputs) for role, batch in episodes.roles.items()}
        every = (example for found in examples.values() for example in found)
        self._add(meta, {_key(example): example for example in every if _key(example) not in self._rows})
        roles = {}
        for role, batch in episodes.roles.items():
            found = [self._rows[_key(example)] for example in examples[role]]
            rows = torch.tensor(found, dtype=torch.int64, device=batch.inputs.device)
            roles[role] = Batch(**{**batch, "inputs": rows.reshape(*batch.inputs.shape[:2], 1)})
        return {**meta, TABLE: torch.cat(self._table)}, Episode(roles, episodes.seeds)

    def _examples(self, inputs: Tensor) -> list[Tensor]:
        """The T B examples of [T, B, ...]; of texts, the tokens and the padding up to a multiple of WIDTH."""
        flat, tokens = inputs.flatten(0, 1), self._backbone.tokens
        if tokens is None:
            return list(flat)
        counts = (flat != tokens.pad_id).sum(1).tolist()
        longest = _width(max(counts))
        flat = functional.pad(flat, (0, longest - flat.shape[1]), value=tokens.pad_id)
        return [text[: _width(count)] for text, count in zip(flat, counts, strict=True)]

    def _add(self, meta: Params, examples: Mapping[bytes, Tensor]) -> None:
        """Compute the features of examples that are not in the table, those of one shape together."""
        groups: dict[torch.Size, list[bytes]] = {}
        for key, example in examples.items():
            groups.setdefault(example.shape, []).append(key)
        parts = [keys[begin : begin + BATCH] for keys in groups.values() for begin in range(0, len(keys), BATCH)]
        batches = [torch.stack([examples[key] for key in _filled(part)]) for part in parts]
        for part, found in zip(parts, self._lanes.map(partial(self._features, meta), batches), strict=True):
            self._rows |= {key: len(self._rows) + place for place, key in enumerate(part)}
            self._table.append(found[: len(part)])

    def _features(self, meta: Params, batch: Tensor) -> Tensor:
        buffers = {name: meta[name] for name in self._backbone.buffers()}
        with torch.no_grad(), products(self._matmul):
            return Network(self._backbone, buffers, training=False).features(meta, batch)


class _Table(Backbone):
    """Reads the features of examples from the table; heads are those of the network."""

    def __init__(self, backbone: Backbone) -> None:
        self._inner = backbone
        self.heads, self.num_features, self.has_head = backbone.heads, backbone.num_features, backbone.has_head
        self.protocols, self.protocol = backbone.protocols, backbone.protocol

    @override
    def init(self, seed: int) -> Params:
        return self._inner.init(seed)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        return self._inner.groups()

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        return params[TABLE][inputs[..., 0]]

    @override
    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        return self._inner.head(params, features, head)

    @override
    def head_names(self, head: str) -> tuple[str, ...]:
        return self._inner.head_names(head)


def _key(example: Tensor) -> bytes:
    return example.cpu().numpy().tobytes()


def _width(count: int) -> int:
    return max(WIDTH, -(-count // WIDTH) * WIDTH)


def _filled(keys: list[bytes]) -> list[bytes]:
    """BATCH keys, the last one repeated."""
    return keys + keys[-1:] * (BATCH - len(keys))
