"""Contract of all backbones: a table with a row for each."""

from __future__ import annotations

import math

import pytest
import torch

from distmeta.config import Conv4Config, ConvNetConfig, MixedConfig, MlpConfig, PolicyConfig, ResNet12Config
from distmeta.config.models import ModelConfig, TransformerConfig
from distmeta.config.petl import FullConfig, LoraConfig, MamConfig
from distmeta.core.errors import UserError
from distmeta.models import BACKBONES, build_backbone
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

VIT = TransformerConfig(
    architecture={
        "model_type": "vit",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "image_size": 8,
        "patch_size": 4,
    },
    petl=(MamConfig(length=2, width=3), LoraConfig(rank=2)),
    inputs="pixels",
)
ROWS: dict[str, tuple[ModelConfig, tuple[int, ...], int]] = {
    # name: configuration, input shape, number of features
    "mlp": (MlpConfig(hidden=(9, 5)), (2, 3), 5),
    "mlp without hidden layers": (MlpConfig(hidden=()), (2, 3), 6),
    "policy": (PolicyConfig(hidden=(9, 5)), (2, 3), 5),
    "conv4": (Conv4Config(filters=6), (1, 28, 28), 6),
    "conv4 of odd sides": (Conv4Config(filters=6), (3, 17, 9), 6),
    "conv4 pooled": (Conv4Config(filters=6, downsample="pool"), (3, 32, 48), 6 * 2 * 3),
    "mixed": (MixedConfig(filters=6, nodes=3), (3, 17, 9), 6),
    "mixed of all operations": (
        MixedConfig(filters=5, cells=2, operations=("avg_pool", "conv1x1", "conv3x3", "max_pool", "skip", "zero")),
        (1, 12, 12),
        5,
    ),
    "mixed of chosen operations": (MixedConfig(filters=5, chosen=("conv3x3", "skip", "conv1x1")), (1, 12, 12), 5),
    "mixed inductive": (MixedConfig(filters=6, cells=1, norm="support"), (1, 12, 12), 6),
    "resnet12": (ResNet12Config(widths=(4, 4, 5, 6), dropout=0.1), (3, 16, 16), 6),
    "convnet": (ConvNetConfig(filters=(4, 5)), (3, 12, 14), 5 * 3 * 4),
    "convnet without norm": (ConvNetConfig(filters=(4, 5), norm="none"), (1, 12, 12), 5 * 3 * 3),
    "transformer": (VIT, (3, 8, 8), 8),
    "transformer of all weights": (VIT.model_copy(update={"petl": (FullConfig(),)}), (3, 8, 8), 8),
    "conv4 inductive": (Conv4Config(filters=6, norm="support"), (1, 16, 16), 6),
    "conv4 of group norm": (Conv4Config(filters=6, norm="group"), (1, 28, 28), 6),
}


def network(backbone: Backbone) -> Network:
    return Network(backbone, backbone.buffers(), torch.tensor(0))


def test_every_backbone_has_a_row() -> None:
    assert {name.split()[0] for name in ROWS} == set(BACKBONES) - {"python"}


@pytest.mark.parametrize("name", ROWS)
def test_shapes_groups_and_types_fit_together(name: str) -> None:
    config, shape, num_features = ROWS[name]
    backbone = build_backbone(config, shape, {HEAD: 4}, torch.float64)
    params, inputs = backbone.init(0), torch.rand(7, *shape, dtype=torch.float64)
    net = network(backbone)
    features = net.features(params, inputs)
    assert features.shape == (7, num_features) == (7, backbone.num_features)
    assert net(params, inputs).shape == (7, backbone.num_outputs) == (7, 4)
    assert torch.equal(net(params, inputs), net.head(params, features))
    groups = backbone.groups()
    assert list(groups["all"]) == list(params) == [*groups["body"], *groups["head"]]
    blocks = [names for group, names in groups.items() if group.startswith(("block", "outside"))]
    names_in_blocks = [name for names in blocks for name in names]
    assert sorted(names_in_blocks) == sorted(groups["body"])
    assert {tensor.dtype for tensor in params.values()} == {torch.float64}


@pytest.mark.parametrize("name", ROWS)
def test_a_further_head_has_its_own_outputs_and_changes_no_other_parameter(name: str) -> None:
    config, shape, num_features = ROWS[name]
    one = build_backbone(config, shape, {HEAD: 4}, torch.float64)
    two = build_backbone(config, shape, {HEAD: 4, "source": 7}, torch.float64)
    params, groups = two.init(0), two.groups()
    for parameter, tensor in one.init(0).items():
        assert torch.equal(params[parameter], tensor)
    assert list(groups["all"]) == list(params) == [*groups["body"], *groups["head"], *groups["source"]]
    assert groups["source"] == two.head_names("source") == ("source.weight", "source.bias")
    assert params["source.weight"].shape == (7, num_features)
    inputs = torch.rand(3, *shape, dtype=torch.float64)
    assert network(two)(params, inputs, head="source").shape == (3, 7)
    assert torch.equal(network(two)(params, inputs), network(one)(one.init(0), inputs))


@pytest.mark.parametrize("name", ROWS)
def test_taps_are_the_outputs_of_the_blocks(name: str) -> None:
    config, shape, _ = ROWS[name]
    backbone = build_backbone(config, shape, {HEAD: 4}, torch.float64)
    net, inputs = network(backbone), torch.rand(3, *shape, dtype=torch.float64)
    net.features(backbone.init(0), inputs)
    assert net.taps == {}
    net.features(backbone.init(0), inputs, inputs, tapped=True)
    groups, blocks = backbone.groups(), backbone.blocks()
    assert list(net.taps) == [block for block in blocks if block != "outside"]
    assert sorted(groups["body"]) == sorted(parameter for block in blocks for parameter in groups[block])
    assert all(len(tensor) == 3 for tensor in net.taps.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_parameters_are_the_same_in_both_dtypes(dtype: torch.dtype) -> None:
    for config, shape, _ in ROWS.values():
        exact = build_backbone(config, shape, {HEAD: 4}, torch.float64).init(2)
        params = build_backbone(config, shape, {HEAD: 4}, dtype).init(2)
        assert all(torch.equal(params[name], tensor.to(dtype)) for name, tensor in exact.items())


def test_initial_weights_of_conv4_are_xavier_uniform() -> None:
    conv4 = build_backbone(Conv4Config(filters=64), (1, 28, 28), {HEAD: 4}).init(0)
    bound = math.sqrt(6 / (9 * (64 + 64)))
    assert float(conv4["block2.conv.weight"].abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(conv4["block2.conv.weight"].std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (Conv4Config(), (1,), "takes images"),
        (Conv4Config(filters=8, norm="group"), (1, 16, 16), "has one value in a group"),
        (MixedConfig(), (1,), "3 cells take images of 7x7 pixels or more"),
        (MixedConfig(), (1, 7, 6), "3 cells take images of 7x7 pixels or more"),
        (ConvNetConfig(), (1, 15, 28), r"3 blocks do not fit inputs of shape \(1, 15, 28\); allowed: fewer blocks"),
        (ConvNetConfig(filters=(4,), gate=(2, 2)), (1, 7, 7), "model.gate: 2 blocks do not fit"),
        (Conv4Config(downsample="pool"), (1, 28, 15), "28x15 pixels are too small"),
        (Conv4Config(), (2**30, 8, 8), "64 filters make a layer of .* parameters"),
    ],
)
def test_unsupported_input_shapes_are_refused(config: ModelConfig, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(config, shape, {HEAD: 5})


def test_a_gate_multiplies_the_features_by_numbers_between_0_and_1() -> None:
    shape, heads = (1, 12, 12), {HEAD: 4}
    plain = build_backbone(ConvNetConfig(filters=(4, 5)), shape, heads, torch.float64)
    gated = build_backbone(ConvNetConfig(filters=(4, 5), gate=(3,)), shape, heads, torch.float64)
    params, inputs = gated.init(0), torch.rand(3, *shape, dtype=torch.float64)
    groups = gated.groups()
    assert set(groups["gate"]) == set(groups["body"]) - set(plain.groups()["body"])
    ungated = network(plain).features({name: params[name] for name in plain.init(0)}, inputs)
    factors = network(gated).features(params, inputs)[ungated > 0] / ungated[ungated > 0]
    assert 0 < factors.min() < factors.max() < 1
    halves = params | {name: torch.zeros_like(params[name]) for name in ("gate.linear.weight", "gate.linear.bias")}
    torch.testing.assert_close(network(gated).features(halves, inputs), ungated / 2)


def test_a_convnet_treats_examples_one_by_one() -> None:
    backbone = build_backbone(ConvNetConfig(filters=(4, 5), gate=(3,)), (1, 12, 12), {HEAD: 4}, torch.float64)
    params, inputs = backbone.init(0), torch.rand(3, 1, 12, 12, dtype=torch.float64)
    assert (backbone.is_row_wise, backbone.protocols) == (True, ("inductive",))
    together = network(backbone)(params, inputs)
    torch.testing.assert_close(together, torch.cat([network(backbone)(params, row[None]) for row in inputs]))
