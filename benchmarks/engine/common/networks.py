"""The networks of the peers as any user would write them: plain `torch.nn` modules.

Parameters have the names of distmeta's, so values and gradients map one to one. Batch norm always takes the statistics
of the batch, as in MAML.

Shapes: B examples, D features, O outputs.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distmeta.config import Conv4Config, MlpConfig, RunConfig
from distmeta.core.types import Params


class PlainNetwork(nn.Module):
    """Blocks by name, one after the other, and a linear head."""

    def __init__(self, blocks: dict[str, nn.Module], head: nn.Module) -> None:
        super().__init__()
        self._names = list(blocks)
        for name, block in blocks.items():
            self.add_module(name, block)
        self.head = head

    def body(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, D]."""
        for name in self._names:
            x = getattr(self, name)(x)
        return x

    @override
    def forward(self, x: Tensor) -> Tensor:  # [B, ...] -> [B, O]
        return self.head(self.body(x))  # type: ignore[no-any-return]


class _LinearRelu(nn.Linear):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class _SpatialMean(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv_block(channels: int, filters: int, *, pool: bool) -> nn.Module:
    """Convolution, batch norm and ReLU, with stride 2 or 2x2 max pooling."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels, filters, 3, stride=1 if pool else 2, padding=1),
        norm=nn.BatchNorm2d(filters, track_running_stats=False),
        relu=nn.ReLU(),
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def plain_network(config: RunConfig, meta: Params) -> PlainNetwork:
    """The configuration's network with a copy of these meta-parameters."""
    blocks: dict[str, nn.Module]
    if isinstance(config.model, Conv4Config):
        filters, channels = meta["block1.conv.weight"].shape[:2]
        pool = config.model.downsample == "pool"
        blocks = {f"block{i}": _conv_block(channels if i == 1 else filters, filters, pool=pool) for i in range(1, 5)}
        blocks["features"] = nn.Flatten() if pool else _SpatialMean()
    else:
        assert isinstance(config.model, MlpConfig), "the peers have these two networks"
        widths = [meta["block1.weight"].shape[1], *config.model.hidden]
        blocks = {"flatten": nn.Flatten()}
        for i in range(1, len(widths)):
            blocks[f"block{i}"] = _LinearRelu(widths[i - 1], widths[i])
    head = meta.get("head.weight")
    network = PlainNetwork(blocks, nn.Identity() if head is None else nn.Linear(head.shape[1], head.shape[0]))
    values = next(iter(meta.values()))
    network.to(device=values.device, dtype=values.dtype)
    network.load_state_dict({name: tensor.clone() for name, tensor in meta.items()}, strict=True)
    return network
