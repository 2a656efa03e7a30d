"""Linear heads, and their initial weights: uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch

from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import HEAD, Backbone

CONTEXT = "context"
"""Name and group of context parameters [C] (CAVIA, Zintgraf et al. 2019, arXiv 1810.03642): zeros, part of the body."""
Names = tuple[str, ...]


def linear(name: str, fan_in: int, fan_out: int, rng: torch.Generator, dtype: torch.dtype) -> Params:
    """Weight [fan_out, fan_in] and bias [fan_out] (zeros) of a linear layer."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    weight = torch.rand(fan_out, fan_in, generator=rng, dtype=torch.float64) * 2 - 1
    return {f"{name}.weight": (weight * bound).to(dtype), f"{name}.bias": torch.zeros(fan_out, dtype=dtype)}


def init_heads(
    backbone: Backbone, seed: int, rng: torch.Generator, dtype: torch.dtype, names: Collection[str] | None = None
) -> Params:
    """Parameters of all heads, or of some.

    `rng` draws for the first one; others have streams of their own, so that adding a head changes no other parameter.
    """
    params: Params = {}
    for name in backbone.heads if names is None else names:
        outputs = backbone.heads[name]
        stream = rng if name == HEAD else torch.Generator().manual_seed(mix(seed, "head", name))
        params |= linear(name, backbone.num_features, outputs, stream, dtype)
    return params


def with_heads(backbone: Backbone, blocks: Mapping[str, Names], **others: Names) -> dict[str, Names]:
    """Parameter groups of a network: its blocks, which make up the body, other groups of the body, and its heads."""
    body = tuple(name for block in blocks.values() for name in block)
    heads = {head: backbone.head_names(head) for head in backbone.heads}
    every = body + tuple(name for head in heads.values() for name in head)
    return {"all": every, "body": body, **heads, **others, **blocks}
