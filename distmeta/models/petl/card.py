"""The model card (README.md) of an exported folder."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from distmeta import __version__
from distmeta.config.models import TransformerConfig
from distmeta.models.petl.load import PACKAGES

_KINDS = {"LORA": "LoRA", "IA3": "IA3", "PREFIX_TUNING": "Prefix"}


def card(
    config: TransformerConfig,
    peft_type: str,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, object],
    *,
    has_heads: bool,
) -> str:
    """Markdown that says what the parameters are, how to load them, and what is known of them.

    Args:
        config: Their network.
        peft_type: `LORA`, `IA3` or `PREFIX_TUNING`.
        tensors: The parameters.
        facts: What is known of the run, by name.
        has_heads: Whether there is a file of heads beside them.
    """
    name, base = _KINDS[peft_type], _base_of(config)
    count = sum(tensor.numel() for tensor in tensors.values())
    front = ["library_name: peft", *_base_model(config), "tags: [meta-learning, distmeta]"]
    lines = [
        "---",
        *front,
        "---",
        "",
        f"# {name} parameters, meta-learned",
        "",
        f"{name} parameters ({count} numbers) for {base}, trained with distmeta {__version__}. They are a start for a "
        "few steps of adaptation to a task, or the parameters of one task.",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModel",
        "",
        f"base = {_call(config)}",
        'model = PeftModel.from_pretrained(base, "this folder")',
        "```",
        "",
    ]
    if config.inputs == "tokens":
        pooled = {"mean": "mean over its tokens", "cls": "first token", "last": "last token"}[config.pooling]
        scaled = ", scaled to length 1" if config.normalise else ""
        lines += [f"Features of a text: last hidden states, {pooled}{scaled}. There is no dropout.", ""]
    if has_heads:
        lines += ["`heads.safetensors` holds the linear layers (`head.weight`, `head.bias`) on these features.", ""]
    if facts:
        lines += ["| | |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()), ""]
    return "\n".join(lines)


def _base_of(config: TransformerConfig) -> str:
    if config.pretrained is None:
        return f"a `{config.architecture['model_type']}` network of random weights"
    return f"`{config.pretrained}`"


def _base_model(config: TransformerConfig) -> list[str]:
    """The field of a card that names a network on the hub."""
    name = config.pretrained
    is_hub_name = name is not None and name not in PACKAGES and name.count("/") <= 1 and name[0] not in "./~"
    return [f"base_model: {json.dumps(name)}"] if is_hub_name else []


def _call(config: TransformerConfig) -> str:
    if config.pretrained is None:
        return "...  # AutoModel.from_config(...), with the weights that it had in training"
    return f"AutoModel.from_pretrained({json.dumps(config.pretrained)})"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
