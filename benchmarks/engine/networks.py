"""The benchmark's networks as any user would write them: plain `torch.nn` modules.

Their parameters carry the names of distmeta's, so that values and gradients map one to one. Batch norm takes the
statistics of the batch, always, as in MAML.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.config import Conv4Config, RunConfig
from distmeta.core.types import Params


class PlainMlp(nn.Module):
    """Linear layers with ReLU, then a linear head.

    Args:
        sizes: Width of the input, of every hidden layer and of the output.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for layer in range(1, len(sizes) - 1):
            layers[f"block{layer}"] = nn.Linear(sizes[layer - 1], sizes[layer])
        for name, module in layers.items():
            self.add_module(name, module)
        self.blocks = list(layers)
        self.head = nn.Linear(sizes[-2], sizes[-1])

    def body(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, D]."""
        x = x.flatten(1)
        for name in self.blocks:
            x = F.relu(getattr(self, name)(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, O]."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class PlainConv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm and ReLU; strided, or pooled and flattened.

    Args:
        channels: Of the images.
        filters: Of every block.
        head_shape: (outputs, features) of the linear head; None leaves it out.
        pool: 2x2 max pooling in place of strides.
    """

    def __init__(self, channels: int, filters: int, head_shape: tuple[int, int] | None, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        for block in range(1, 5):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv=nn.Conv2d(channels, filters, 3, stride=1 if pool else 2, padding=1),
                norm=nn.BatchNorm2d(filters, track_running_stats=False),
                relu=nn.ReLU(),
            )
            if pool:
                layers["pool"] = nn.MaxPool2d(2)
            self.add_module(f"block{block}", nn.Sequential(layers))
            channels = filters
        self.head = nn.Identity() if head_shape is None else nn.Linear(head_shape[1], head_shape[0])

    def body(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]."""
        x = self.block4(self.block3(self.block2(self.block1(x))))  # type: ignore[operator]
        return x.flatten(1) if self.pool else x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, O]."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


PlainNetwork = PlainMlp | PlainConv4


def plain_network(config: RunConfig, meta: Params) -> PlainNetwork:
    """The configuration's network, holding a copy of these meta-parameters."""
    head = tuple(meta["head.weight"].shape) if "head.weight" in meta else None
    network: PlainNetwork
    if isinstance(config.model, Conv4Config):
        filters, channels = meta["block1.conv.weight"].shape[:2]
        shape = None if head is None else (head[0], head[1])
        network = PlainConv4(channels, filters, shape, pool=config.model.downsample == "pool")
    else:
        inputs = meta["block1.weight"].shape[1]
        network = PlainMlp([inputs, *config.model.hidden, meta["head.weight"].shape[0]])
    values = next(iter(meta.values()))
    network.to(device=values.device, dtype=values.dtype)
    network.load_state_dict({name: tensor.clone() for name, tensor in meta.items()}, strict=True)
    return network
