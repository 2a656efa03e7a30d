"""Tunable parameters as folders of the package peft, and back: `adapter_config.json` and `adapter_model.safetensors`.

A folder holds one kind: LoRA, IA3, or a prefix. The package peft is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from distmeta.core.errors import UserError
from distmeta.core.files import read_file, reason, write_file
from distmeta.core.paths import expand_user
from distmeta.core.types import Params
from distmeta.models.petl.card import card
from distmeta.models.petl.forms import CONFIG, EXPORTS, IMPORTS, ROOT, TYPES, WEIGHTS
from distmeta.models.petl.parts import Part

if TYPE_CHECKING:
    from distmeta.models.petl.transformer import Transformer

HEADS, README = "heads.safetensors", "README.md"
_MAX_CONFIG_BYTES = 2**20


def export_peft(
    network: Transformer, params: Mapping[str, Tensor], folder: str | Path, facts: Mapping[str, object] | None = None
) -> list[str]:
    """Write parameters as a folder that `peft.PeftModel.from_pretrained(base, folder)` loads.

    Heads, which peft does not know, go into `heads.safetensors`.

    Args:
        network: The network that they belong to.
        params: Meta-parameters, or the parameters of one task.
        folder: A folder that does not exist, or is empty.
        facts: What the model card tells of the run, by name.

    Returns:
        The files.

    Raises:
        UserError: peft cannot express them, or the folder cannot be written.
    """
    kind, parts = _kind_of(network)
    config, tensors = EXPORTS[kind](network, parts, params)
    settings = {
        "peft_type": TYPES[kind],
        "task_type": None if network.config.inputs == "pixels" else "FEATURE_EXTRACTION",
        "base_model_name_or_path": network.config.pretrained,
        "inference_mode": True,
        **config,
    }
    heads = {name: params[name] for head in network.heads for name in network.head_names(head) if name in params}
    content = {
        CONFIG: json.dumps(settings, indent=2, sort_keys=True).encode() + b"\n",
        WEIGHTS: _packed(tensors),
        README: card(network.config, TYPES[kind], tensors, facts or {}, has_heads=bool(heads)).encode(),
    }
    if heads:
        content[HEADS] = _packed(heads)
    path = _new_folder(folder)
    for name, data in content.items():
        write_file(path / name, data)
    return sorted(content)


def read_peft(network: Transformer, folder: str, where: str) -> Params:
    """Read initial values of parts from a folder of peft.

    Args:
        network: The network.
        folder: The folder.
        where: Field of the run's configuration, for messages.

    Returns:
        Values by parameter, of the network's type; those of other kinds of parts are missing.

    Raises:
        UserError: The folder cannot be read, or is not for these parts: names the first difference.
    """
    settings, tensors = _read(folder, where)
    kinds = {name: kind for kind, name in TYPES.items()}
    kind = kinds.get(str(settings.get("peft_type")))
    if kind is None:
        what = f"'{folder}' is of peft_type {settings.get('peft_type')!r}"
        raise UserError(what, where=where, allowed=", ".join(kinds))
    parts = [part for part in network.parts if part.kind == kind]
    if not parts:
        what = f"'{folder}' holds {TYPES[kind]}, but no part of model.petl is of this kind"
        raise UserError(what, where=where, allowed=f"a part {{kind: {kind}}} in model.petl, or another folder")
    heads = tuple(settings.get("modules_to_save") or ())
    tensors = {
        _without_root(name, network): tensor
        for name, tensor in tensors.items()
        if not any(f".{head}." in name for head in heads)
    }
    values = IMPORTS[kind](network, parts, settings, tensors, where)
    return {name: tensor.to(network.dtype).contiguous() for name, tensor in values.items()}


def _kind_of(network: Transformer) -> tuple[str, list[Part]]:
    """The kind of the network's parts, if it is one that peft has."""
    kinds = sorted({part.kind for part in network.parts})
    if len(kinds) > 1:
        what = f"the network has parts of several kinds ({', '.join(kinds)}), but a folder of peft holds one"
        raise UserError(what, where="model.petl", allowed="parts of one kind: lora, ia3, or prefix")
    if kinds[0] not in TYPES:
        what = f"'{kinds[0]}' has no counterpart in peft"
        raise UserError(what, where="model.petl", allowed="lora, ia3, or prefix without a gate")
    return kinds[0], network.parts


def _without_root(name: str, network: Transformer) -> str:
    """The name of a tensor in the network. One with a head of its own holds the network under a name of its family."""
    family = getattr(network.network, "base_model_prefix", "")
    return name.removeprefix(ROOT).removeprefix(f"{family}." if family else "")


def _read(folder: str, where: str) -> tuple[dict[str, Any], Params]:
    path = Path(expand_user(folder))
    if not path.is_dir():
        raise UserError(f"there is no folder '{folder}'", where=where, allowed=f"a folder with {CONFIG} and {WEIGHTS}")
    if not (path / WEIGHTS).exists() and any(path.glob("*.bin")):
        what = f"'{folder}' holds its weights as a pickle (.bin), which is not loaded"
        raise UserError(what, where=where, allowed=f"{WEIGHTS}, as peft's save_pretrained writes by default")
    try:
        settings = json.loads(read_file(path / CONFIG, _MAX_CONFIG_BYTES))
        weights = path / WEIGHTS
        tensors = from_bytes(read_file(weights, weights.stat().st_size if weights.is_file() else 0))
    except (ValueError, RecursionError, SafetensorError) as error:
        raise UserError(
            f"'{folder}' cannot be read: {error}", where=where, allowed="an intact folder of peft"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"{CONFIG} in '{folder}' is not an object", where=where, allowed="an intact folder of peft")
    return settings, tensors


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return to_bytes(plain, metadata={"format": "pt"})


def _new_folder(folder: str | Path) -> Path:
    path = Path(expand_user(str(folder)))
    try:
        path.mkdir(parents=True, exist_ok=True)
        is_empty = not any(path.iterdir())
    except OSError as error:
        what = f"cannot be written: {reason(error)}"
        raise UserError(what, where=str(path), allowed="a folder that does not exist, or is empty") from error
    if not is_empty:
        raise UserError("is not empty", where=str(path), allowed="a folder that does not exist, or is empty")
    return path
