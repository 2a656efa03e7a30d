"""What the package peft calls the tunable parameters, by kind.

Names in its folders, for a layer `encoder.layer.0.attention.self.query`:

    base_model.model.encoder.layer.0.attention.self.query.lora_A.weight   [r, I]     .lora_B.weight   [O, r]
    base_model.model.encoder.layer.0.attention.self.query.ia3_l           [O, 1], or [1, I] for factors of inputs
    prompt_embeddings                                                     [V, 2 * blocks * width of all keys]

Adapters, MAM, BitFit and gates have no counterpart in peft. A prefix that a network makes (`hidden`) is written as the
keys and values that it makes, as peft does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.models.petl.parts import Ia3, Lora, PrefixPart, Shape

if TYPE_CHECKING:
    from distmeta.models.petl.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
TYPES = {"lora": "LORA", "ia3": "IA3", "prefix": "PREFIX_TUNING"}
_PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "layer_replication": None, "lora_bias": False}
"""Options of LoRA in peft that change what it computes, with the values that are known here."""
_PLAIN_INIT = (True, False, "gaussian", "orthogonal")
"""Initial values of LoRA in peft that leave the network's own weights as they are."""

Export = Callable[["Transformer", Sequence[Any], Mapping[str, Tensor]], tuple[dict[str, Any], Params]]
Import = Callable[["Transformer", Sequence[Any], Mapping[str, Any], Mapping[str, Tensor], str], Params]


def _export_lora(
    network: Transformer, parts: Sequence[Lora], params: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Params]:
    first = parts[0].config
    others = {path: part.config for part in parts[1:] for path in part.paths}
    paths = [path for part in parts for path in part.paths]
    tensors = {f"{ROOT}{name}.weight": params[name] for part in parts for name in part.makes}
    return {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "target_modules": paths,
        "rank_pattern": {re.escape(path): config.rank for path, config in others.items()},
        "alpha_pattern": {re.escape(path): config.alpha for path, config in others.items()},
        "fan_in_fan_out": network.shape.sites[paths[0]].is_transposed,
        "bias": "none",
    }, tensors


def _import_lora(
    network: Transformer,
    parts: Sequence[Lora],
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
) -> Params:
    for name, value in _PLAIN.items():
        if settings.get(name, value) not in (value, None):
            raise UserError(f"{name} is {settings[name]!r} in {CONFIG}", where=where, allowed=repr(value))
    if settings.get("init_lora_weights", True) not in _PLAIN_INIT:
        what = f"init_lora_weights is {settings['init_lora_weights']!r} in {CONFIG}, which may change the network"
        raise UserError(what, where=where, allowed=", ".join(map(repr, _PLAIN_INIT)))
    names = {f"{name}.weight": name for part in parts for name in part.makes}
    values = _renamed(names, tensors, where)
    for part in parts:
        for path in part.paths:
            found = len(values[f"{path}.lora_A"]), _by_pattern(settings, "alpha_pattern", "lora_alpha", path)
            wanted = part.config.rank, part.config.alpha
            if found != wanted:
                what = f"the LoRA of '{path}' has rank {found[0]} and alpha {found[1]:g}"
                raise UserError(what, where=where, allowed=f"rank {wanted[0]} and alpha {wanted[1]:g} as in model.petl")
    return _of_shapes(values, network, where)


def _by_pattern(settings: Mapping[str, Any], patterns: str, default: str, path: str) -> float:
    """A setting of peft for one layer."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return float(value)
    return float(settings.get(default, 8))


def _export_ia3(
    network: Transformer, parts: Sequence[Ia3], params: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Params]:
    names = [name for part in parts for name in part.makes]
    outputs = [name.removesuffix(".ia3") for name in names if name.endswith(".ia3")]
    inputs = [name.removesuffix(".ia3_input") for name in names if name.endswith(".ia3_input")]
    if both := sorted(set(outputs) & set(inputs)):
        what = f"'{both[0]}' has factors of its inputs and of its outputs, but peft has one of them"
        raise UserError(what, where="model.petl", allowed="targets and inputs that have no layer in common")
    tensors = {f"{ROOT}{path}.ia3_l": params[f"{path}.ia3"][:, None] for path in outputs}
    tensors |= {f"{ROOT}{path}.ia3_l": params[f"{path}.ia3_input"][None, :] for path in inputs}
    return {
        "target_modules": outputs + inputs,
        "feedforward_modules": inputs,
        "fan_in_fan_out": network.shape.sites[(outputs + inputs)[0]].is_transposed,
    }, tensors


def _import_ia3(
    network: Transformer, parts: Sequence[Ia3], settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> Params:
    # Factors of inputs have one row, those of outputs one column: that tells which of the two the folder has.
    ends = {
        name: ".ia3_input.row" if tensor.ndim == 2 and tensor.shape[0] == 1 else ".ia3.column"
        for name, tensor in tensors.items()
    }
    given = {name.removesuffix(".ia3_l") + ends[name]: tensor.flatten() for name, tensor in tensors.items()}
    names = {
        f"{name}.row" if name.endswith(".ia3_input") else f"{name}.column": name
        for part in parts
        for name in part.makes
    }
    return _of_shapes(_renamed(names, given, where), network, where)


def _export_prefix(
    network: Transformer, parts: Sequence[PrefixPart], params: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Params]:
    part, shape = parts[0], network.shape
    if part.config.gate:
        what = "a prefix with a gate has no counterpart in peft"
        raise UserError(what, where="model.petl", allowed="{kind: prefix, gate: false}")
    if network.config.inputs == "pixels":
        what = "peft has no prefix for networks of pixels"
        raise UserError(what, where="model.petl", allowed="lora or ia3")
    _require_all_blocks(part, shape, "model.petl")
    width = shape.num_key_heads * shape.head_size
    return {
        "num_virtual_tokens": part.config.length,
        "num_layers": shape.num_blocks,
        "num_attention_heads": shape.num_key_heads,
        "token_dim": width,
        "encoder_hidden_size": width,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }, {"prompt_embeddings": part.keys_and_values(params).flatten(1)}


def _import_prefix(
    network: Transformer,
    parts: Sequence[PrefixPart],
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
) -> Params:
    part, shape = parts[0], network.shape
    if part.config.gate or part.config.hidden is not None:
        what = "a folder of peft holds the keys and values of a prefix, without a gate or the network that makes them"
        raise UserError(what, where=where, allowed="{kind: prefix, gate: false, hidden: null} in model.petl")
    _require_all_blocks(part, shape, where)
    table = tensors.get("prompt_embeddings")
    expected = [part.config.length, 2 * shape.num_blocks * shape.num_key_heads * shape.head_size]
    if table is None or list(table.shape) != expected:
        found = "no prompt_embeddings" if table is None else f"prompt_embeddings {list(table.shape)}"
        raise UserError(f"{WEIGHTS} has {found}", where=where, allowed=f"{expected}: length, and all keys and values")
    made = table.reshape(len(table), 2 * shape.num_blocks, shape.num_key_heads, shape.head_size)
    ends = [f"prefix.{block}.{end}" for block in range(shape.num_blocks) for end in ("keys", "values")]
    return {name: made[:, row] for row, name in enumerate(ends)}


def _require_all_blocks(part: PrefixPart, shape: Shape, where: str) -> None:
    if part.blocks != tuple(range(shape.num_blocks)):
        what = f"the prefix is in blocks {list(part.blocks)} alone, but in peft all blocks have it"
        raise UserError(what, where=where, allowed="{kind: prefix, layers: null} in model.petl")


def _renamed(names: Mapping[str, str], tensors: Mapping[str, Tensor], where: str) -> Params:
    """Tensors by parameter; `names` are the parameters by name in the folder. Both must have the same."""
    if missing := sorted(names.keys() - tensors.keys()):
        what = f"{WEIGHTS} has no '{missing[0]}', which model.petl has ({len(missing)} are missing)"
        raise UserError(what, where=where, allowed="targets and layers in model.petl as in the folder")
    if unknown := sorted(tensors.keys() - names.keys()):
        what = f"{WEIGHTS} has '{unknown[0]}', which model.petl has not ({len(unknown)} are unknown)"
        raise UserError(what, where=where, allowed="targets and layers in model.petl as in the folder")
    return {name: tensors[key] for key, name in names.items()}


def _of_shapes(values: Params, network: Transformer, where: str) -> Params:
    shapes = {name: list(make(torch.Generator()).shape) for part in network.parts for name, make in part.makes.items()}
    for name, tensor in values.items():
        if list(tensor.shape) != shapes[name]:
            what = f"'{name}' is {list(tensor.shape)} in {WEIGHTS}"
            raise UserError(what, where=where, allowed=f"{shapes[name]}, for this network")
    return values


EXPORTS: dict[str, Export] = {"lora": _export_lora, "ia3": _export_ia3, "prefix": _export_prefix}
IMPORTS: dict[str, Import] = {"lora": _import_lora, "ia3": _import_ia3, "prefix": _import_prefix}
