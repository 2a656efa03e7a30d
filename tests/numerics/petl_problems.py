"""Small transformers with tunable parts, and tasks of texts, for the tests of these.

Shapes: T tasks, N examples, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.config.models import TransformerConfig
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, TextSizes
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.petl.texts import places_for
from distmeta.models.petl.transformer import Transformer

from .problems import WAY

LENGTH, VOCABULARY = 7, 40
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 24,
}
FAMILIES: dict[str, dict[str, Any]] = {
    # Weights wider than by default, so that attention is far from uniform.
    "bert": {"model_type": "bert", **_SIZES, "initializer_range": 0.2},
    "roberta": {"model_type": "roberta", **_SIZES, "initializer_range": 0.2, "pad_token_id": 0},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 24,
        "vocab_size": VOCABULARY,
        "n_positions": 24,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    # Four heads of queries share two of keys.
    "llama": {"model_type": "llama", **_SIZES, "num_key_value_heads": 2, "initializer_range": 0.2},
    "vit": {
        "model_type": "vit",
        **{name: size for name, size in _SIZES.items() if name not in ("vocab_size", "max_position_embeddings")},
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
        "initializer_range": 0.2,
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 3, "alpha": 6.0},
    "sequential adapter": {"kind": "adapter", "width": 5},
    "parallel adapter": {"kind": "adapter", "form": "parallel", "width": 5, "scale": 4.0},
    "gated prefix": {"kind": "prefix", "length": 3},
    "gated prefix, made": {"kind": "prefix", "length": 3, "hidden": 5},
    "prefix": {"kind": "prefix", "length": 3, "gate": False},
    "prefix, made": {"kind": "prefix", "length": 3, "gate": False, "hidden": 5},
    "mam": {"kind": "mam", "length": 3, "width": 5},
    "ia3": {"kind": "ia3"},
    "bitfit": {"kind": "bitfit"},
    "full": {"kind": "full"},
}


def kind_for(family: str, name: str) -> dict[str, Any] | None:
    """A kind of part for a family: GPT-2 has one layer for queries, keys and values, and Llama no biases."""
    part = KINDS[name]
    if family == "llama" and part["kind"] == "bitfit":
        return None
    return {**part, "targets": ("fused",)} if family == "gpt2" and part["kind"] in ("lora", "ia3") else part


def transformer(
    family: str, *parts: Mapping[str, Any], dtype: torch.dtype = torch.float64, **settings: object
) -> Transformer:
    """A small network of random weights with these parts."""
    pixels = family == "vit"
    settings = {"architecture": FAMILIES[family], "inputs": "pixels" if pixels else "tokens", **settings}
    config = TransformerConfig.model_validate({**settings, "petl": parts})
    backbone = build_backbone(config, (3, 8, 8) if pixels else (LENGTH,), {HEAD: WAY}, dtype)
    assert isinstance(backbone, Transformer)
    return backbone


def texts(*shape: int, seed: int = 0) -> Tensor:
    """[*shape, LENGTH] ids; texts have 3 to LENGTH tokens and end with padding (0)."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (*shape, LENGTH), generator=rng)
    lengths = torch.randint(3, LENGTH + 1, shape, generator=rng)
    return torch.where(torch.arange(LENGTH) < lengths[..., None], ids, 0)


def images(*shape: int, seed: int = 0) -> Tensor:
    """[*shape, 3, 8, 8] pixels."""
    return torch.rand(*shape, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def examples(family: str, *shape: int, seed: int = 0) -> Tensor:
    """Inputs of a family."""
    return images(*shape, seed=seed) if family == "vit" else texts(*shape, seed=seed)


def tasks(family: str, tasks: int = 2, shots: int = 1, queries: int = 2, seed: int = 0) -> Episode:
    """T tasks of WAY classes with random examples."""

    def batch(count: int, seed: int) -> Batch:
        labels = torch.arange(WAY * count).remainder(WAY).expand(tasks, -1)
        return Batch(examples(family, tasks, WAY * count, seed=seed), labels)

    return Episode({SUPPORT: batch(shots, 2 * seed), QUERY: batch(queries, 2 * seed + 1)})


def end_to_end(episodes: Episode) -> Episode:
    """The same tasks of texts, which networks may lay end to end: as many places as the largest task takes."""
    places = {
        role: max(places_for(counts, LENGTH) for counts in (batch.inputs != 0).sum(2).tolist())
        for role, batch in episodes.roles.items()
    }
    return replace(episodes, sizes=(TextSizes(LENGTH, tuple(places.items())),) * episodes.num_tasks)


def base_network(network: Transformer) -> nn.Module:
    """The network as `transformers` makes it, with the same weights, and its own attention."""
    import transformers

    architecture = dict(network.config.architecture)
    config = transformers.AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    config._attn_implementation = "sdpa"  # which computes in the type of its inputs
    base = transformers.AutoModel.from_config(config).to(network.dtype).eval()
    missing, unknown = base.load_state_dict(network.network.state_dict(), strict=False)
    assert not unknown and all(name.startswith("pooler.") for name in missing)
    return base
