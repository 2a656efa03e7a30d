"""Parts as the package peft has them: equal functions and gradients, folders that it reads, folders that it wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distmeta.config import Phase
from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.models.base import Frame
from distmeta.models.petl.exchange import export_peft, read_peft
from distmeta.models.petl.transformer import Transformer

from ..adapting import walk
from ..packages import Later
from .petl_problems import base_network, examples, tasks, texts, transformer
from .problems import gradient, perturbed, single_tasks

peft = Later("peft")
# From peft, about a name in transformers.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
Part = dict[str, Any]
LORA: Part = {"kind": "lora", "rank": 3, "alpha": 6.0}
PREFIX: Part = {"kind": "prefix", "length": 3, "gate": False}
# Rows that peft can express: family, parts.
ROWS: dict[str, tuple[str, tuple[Part, ...]]] = {
    "bert lora": ("bert", (LORA,)),
    "bert lora of two ranks": (
        "bert",
        (
            {**LORA, "targets": ("query", "ffn_in")},
            {**LORA, "rank": 2, "alpha": 1.0, "targets": ("output", "ffn_out"), "layers": (1,)},
        ),
    ),
    "bert ia3": ("bert", ({"kind": "ia3"},)),
    "bert prefix": ("bert", (PREFIX,)),
    "bert prefix, made": ("bert", ({**PREFIX, "hidden": 5},)),
    "roberta prefix": ("roberta", (PREFIX,)),
    "llama lora": ("llama", ({**LORA, "targets": ("query", "value", "ffn_in", "ffn_out")},)),
    "llama ia3": ("llama", ({"kind": "ia3"},)),
    "llama prefix": ("llama", (PREFIX,)),
    "gpt2 lora": ("gpt2", ({**LORA, "targets": ("fused", "ffn_out")},)),
    "gpt2 ia3": ("gpt2", ({"kind": "ia3", "targets": ("fused",)},)),
    "gpt2 prefix": ("gpt2", (PREFIX,)),
    "vit lora": ("vit", (LORA,)),
    "vit ia3": ("vit", ({"kind": "ia3"},)),
}
TOKEN_ROWS = [row for row in ROWS if not row.startswith("vit")]


def features_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Mean of the last hidden states, padding left out."""
    if inputs.is_floating_point():
        return model(pixel_values=inputs).last_hidden_state.mean(1)  # type: ignore[no-any-return]
    keep = (inputs != 0).long()
    hidden = model(input_ids=inputs, attention_mask=keep).last_hidden_state
    return (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)  # type: ignore[no-any-return]


def own_features(network: Transformer, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    return network.features(params, inputs, Frame())


def loaded(network: Transformer, folder: Path, **options: Any) -> Any:
    """The network of `transformers` with the folder's parameters, by the package peft."""
    return peft.PeftModel.from_pretrained(base_network(network), str(folder), **options)


@pytest.mark.parametrize("row", ROWS)
def test_peft_computes_the_features_of_an_exported_folder(row: str, tmp_path: Path) -> None:
    family, parts = ROWS[row]
    network = transformer(family, *parts, dtype=torch.float32)
    params, inputs = (
        perturbed(network.init(0), size=0.3),
        examples(family, 4).to(torch.float32 if family == "vit" else torch.int64),
    )
    files = export_peft(network, params, tmp_path / "out", {"run": "a | b"})
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors", "heads.safetensors"]
    with torch.no_grad():
        expected = own_features(network, params, inputs)
        actual = features_of(loaded(network, tmp_path / "out"), inputs)
        without = features_of(base_network(network), inputs)
    assert float((actual - expected).abs().max()) < 1e-5
    assert float((without - expected).abs().max()) > 1e-2  # the folder matters


@pytest.mark.parametrize("row", ROWS)
def test_what_is_read_back_is_what_was_written(row: str, tmp_path: Path) -> None:
    family, parts = ROWS[row]
    if parts[0].get("hidden"):
        parts = (PREFIX,)
    network = transformer(family, *parts)
    params = perturbed(network.init(0))
    export_peft(network, params, tmp_path)
    again = transformer(family, *parts, init_from=str(tmp_path)).init(1)
    for name, tensor in params.items():
        is_equal = torch.equal(again[name], tensor)
        assert is_equal != name.startswith("head"), name  # heads are drawn


@pytest.mark.parametrize("row", ROWS)
def test_folders_that_peft_wrote_are_read(row: str, tmp_path: Path) -> None:
    family, parts = ROWS[row]
    if parts[0].get("hidden"):
        parts = (PREFIX,)
    network = transformer(family, *parts)
    export_peft(network, network.init(0), tmp_path / "first")
    is_prefix = parts[0]["kind"] == "prefix"  # which peft does not train further
    model = loaded(network, tmp_path / "first", is_trainable=not is_prefix)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or name.startswith("prompt_encoder"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    model.save_pretrained(tmp_path / "second")
    params = transformer(family, *parts, init_from=str(tmp_path / "second")).init(0)
    inputs = examples(family, 4)
    with torch.no_grad():
        actual, expected = own_features(network, params, inputs), features_of(model, inputs)
    assert float((actual - expected).abs().max()) < 1e-9
    assert float((own_features(network, network.init(0), inputs) - expected).abs().max()) > 1e-3


def peft_modules(network: Transformer, params: Params) -> tuple[Any, dict[str, Tensor]]:
    """A model with modules that peft makes from a configuration written here, and its parameters by our names.

    Names and shapes do not go through what the package writes: the two are compared below.
    """
    part = network.config.petl[0]
    base, ours = base_network(network), {}
    if part.kind == "lora":
        names = ["query", "value", "q_proj", "v_proj"]  # of BERT, of Llama
        config: Any = peft.LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=names, lora_dropout=0.0)
        model = peft.get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                ours[name.removeprefix("base_model.model.").removesuffix(".default.weight")] = parameter
    elif part.kind == "ia3":
        names = ["key", "value", "k_proj", "v_proj", "down_proj", *(f"layer.{i}.output.dense" for i in (0, 1))]
        model = peft.get_peft_model(base, peft.IA3Config(target_modules=names, feedforward_modules=names[-3:]))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_input = parameter.shape[0] == 1
                path = name.removeprefix("base_model.model.").removesuffix(".ia3_l.default")
                ours[f"{path}.ia3_input" if is_input else f"{path}.ia3"] = parameter
    else:
        options = {"prefix_projection": part.hidden is not None, "encoder_hidden_size": part.hidden}
        config = peft.PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=part.length,
            **options,  # type: ignore[arg-type]
        )
        model = peft.get_peft_model(base, config)
        encoder = model.prompt_encoder["default"]
        if part.hidden is None:
            ours["prefix"] = encoder.embedding.weight
        else:
            first, _, last = encoder.transform
            ours = {
                "prefix.embedding": encoder.embedding.weight,
                "prefix.down.weight": first.weight,
                "prefix.down.bias": first.bias,
                "prefix.up.weight": last.weight,
                "prefix.up.bias": last.bias,
            }
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.data = _value(name, params, network).reshape(parameter.shape).clone()
    return model, ours


def _value(name: str, params: Mapping[str, Tensor], network: Transformer) -> Tensor:
    """A parameter of peft's, from ours."""
    if name != "prefix":
        return params[name]
    ends = [f"prefix.{block}.{end}" for block in range(network.shape.num_blocks) for end in ("keys", "values")]
    return torch.cat([params[end].flatten(1) for end in ends], dim=1)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    "part",
    [LORA, {"kind": "ia3"}, PREFIX, {**PREFIX, "hidden": 5}],
    ids=["lora", "ia3", "prefix", "prefix, made"],
)
def test_parts_are_the_modules_of_peft(family: str, part: Part) -> None:
    network = transformer(family, part)
    params = {name: tensor.requires_grad_() for name, tensor in perturbed(network.init(0)).items()}
    model, ours = peft_modules(network, params)
    inputs = texts(4)
    expected, actual = features_of(model, inputs), own_features(network, params, inputs)
    # Norms of Llama compute in float32.
    exactness = 1e-6 if family == "llama" else 1e-12
    assert float((actual - expected).detach().abs().max()) < exactness
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(2), dtype=actual.dtype)
    tuned = [name for name in params if not name.startswith("head")]
    own = dict(zip(tuned, torch.autograd.grad((actual * weights).sum(), [params[n] for n in tuned]), strict=True))
    theirs = torch.autograd.grad((expected * weights).sum(), list(ours.values()))
    size = max(float(grad.abs().max()) for grad in theirs)
    for name, grad in zip(ours, theirs, strict=True):
        difference = _value(name, own, network).reshape(grad.shape) - grad
        assert float(difference.abs().max()) < exactness * 10 * max(size, 1.0), name
    if "prefix" not in ours:
        assert set(ours) == set(tuned)


def test_parameters_of_a_task_are_exported_with_their_head(tmp_path: Path) -> None:
    network = transformer("bert", LORA)
    meta, task = perturbed(network.init(0)), single_tasks(tasks("bert"))[0]
    fast = {**meta, **walk(gradient(network, Phase(lr=0.2, steps=2)), meta, task.support)[-1].moved}
    assert not torch.equal(fast["head.weight"], meta["head.weight"])
    export_peft(network, fast, tmp_path)
    with torch.no_grad():
        expected = own_features(network, fast, task.query.inputs)
        actual = features_of(loaded(network, tmp_path), task.query.inputs)
    assert float((actual - expected).abs().max()) < 1e-12
    assert torch.equal(load_file(tmp_path / "heads.safetensors")["head.weight"], fast["head.weight"])


def test_a_folder_of_a_network_with_a_head_is_read(tmp_path: Path) -> None:
    # peft's names then have the name of the family before those of the network, and there are weights of the head.
    import transformers

    network = transformer("bert", LORA)
    config = base_network(network).config
    classifier = transformers.BertForSequenceClassification(config).double()
    model = peft.get_peft_model(
        classifier, peft.LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules=["query", "value"])
    )
    model.save_pretrained(tmp_path)
    params = transformer("bert", LORA, init_from=str(tmp_path)).init(0)
    expected = dict(model.named_parameters())
    for name, tensor in params.items():
        if not name.startswith("head"):
            assert torch.equal(tensor, expected[f"base_model.model.bert.{name}.default.weight"]), name


REFUSED_EXPORTS: dict[str, tuple[tuple[Part, ...], str]] = {
    "gate": (({**PREFIX, "gate": True},), "a prefix with a gate has no counterpart in peft"),
    "adapter": (({"kind": "adapter"},), "'adapter' has no counterpart in peft"),
    "several kinds": ((LORA, {"kind": "ia3"}), "parts of several kinds (ia3, lora)"),
    "some blocks": (({**PREFIX, "layers": (1,)},), "the prefix is in blocks [1] alone"),
    "both factors": (
        ({"kind": "ia3", "targets": ("key",), "inputs": ("key",)},),
        "factors of its inputs and of its outputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED_EXPORTS)
def test_what_peft_cannot_express_is_refused(name: str, tmp_path: Path) -> None:
    parts, message = REFUSED_EXPORTS[name]
    network = transformer("bert", *parts)
    with pytest.raises(UserError) as error:
        export_peft(network, network.init(0), tmp_path / "out")
    assert message in str(error.value) and error.value.allowed
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    network = transformer("bert", LORA)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        export_peft(network, network.init(0), tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        export_peft(network, network.init(0), tmp_path / "file" / "below")


def change(**fields: object) -> Any:
    """Change the configuration in a folder."""

    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


def as_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


REFUSED_READS: dict[str, tuple[Any, Part, str]] = {
    "rank": (None, {**LORA, "rank": 4}, "has rank 3 and alpha 6; allowed: rank 4 and alpha 6"),
    "alpha": (None, {**LORA, "alpha": 1.0}, "has rank 3 and alpha 6; allowed: rank 3 and alpha 1"),
    "fewer targets": (
        None,
        {**LORA, "targets": ("query",)},
        "has 'encoder.layer.0.attention.self.value.lora_A",
    ),
    "more targets": (
        None,
        {**LORA, "targets": ("query", "key", "value")},
        "has no 'encoder.layer.0.attention.self.k",
    ),
    "kind": (None, {"kind": "ia3"}, "holds LORA, but no part of model.petl is of this kind"),
    "unknown": (change(peft_type="VERA"), LORA, "peft_type 'VERA'"),
    "scale": (change(use_rslora=True), LORA, "use_rslora is True"),
    "variant": (change(use_dora=True), LORA, "use_dora is True"),
    "base": (change(init_lora_weights="pissa"), LORA, "init_lora_weights is 'pissa'"),
    "pickle": (as_pickle, LORA, "holds its weights as a pickle (.bin), which is not loaded"),
    "damaged": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), LORA, "cannot be read"),
    "no json": (lambda folder: (folder / "adapter_config.json").write_text("{"), LORA, "cannot be read"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), LORA, "is not an object"),
    "missing": (lambda folder: (folder / "adapter_config.json").unlink(), LORA, "adapter_config.json"),
}


@pytest.mark.parametrize("name", REFUSED_READS)
def test_folders_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    damage, part, message = REFUSED_READS[name]
    network = transformer("bert", LORA)
    export_peft(network, network.init(0), tmp_path)
    if damage is not None:
        damage(tmp_path)
    with pytest.raises(UserError) as error:
        transformer("bert", part, init_from=str(tmp_path)).init(0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_prefixes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    network = transformer("bert", PREFIX)
    export_peft(network, network.init(0), tmp_path)
    for change_, message in (
        ({"gate": True}, "without a gate"),
        ({"hidden": 5}, "the network that makes them"),
        ({"length": 4}, "has prompt_embeddings [3, 64]; allowed: [4, 64]"),
        ({"layers": (0,)}, "in blocks [0] alone"),
    ):
        with pytest.raises(UserError) as error:
            read_peft(transformer("bert", {**PREFIX, **change_}), str(tmp_path), "model.init_from")
        assert message in str(error.value)
    with pytest.raises(UserError, match="there is no folder"):
        read_peft(network, str(tmp_path / "none"), "model.init_from")
