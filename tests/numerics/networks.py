"""Independent implementations of the networks as `torch.nn` modules, with the same parameter names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.core.types import Params


class Mlp(nn.Module):
    """Linear layers `block1 .. blockL` with ReLU, then `head`."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(sizes) - 2
        for layer in range(1, self.depth + 1):
            self.add_module(f"block{layer}", nn.Linear(sizes[layer - 1], sizes[layer]))
        self.head = nn.Linear(sizes[-2], sizes[-1])

    def body(self, x: Tensor) -> Tensor:
        for layer in range(1, self.depth + 1):
            x = F.relu(self.get_submodule(f"block{layer}")(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Conv4(nn.Module):
    """Four blocks with batch statistics: strided with global average pooling, or max-pooled and flattened."""

    def __init__(self, filters: int, num_features: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        for block in range(1, 5):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                conv=nn.Conv2d(1 if block == 1 else filters, filters, 3, stride=1 if pool else 2, padding=1),
                norm=nn.BatchNorm2d(filters, track_running_stats=False),
                relu=nn.ReLU(),
            )
            if pool:
                layers["pool"] = nn.MaxPool2d(2)
            self.add_module(f"block{block}", nn.Sequential(layers))
        self.head = nn.Linear(num_features, outputs)

    def body(self, x: Tensor) -> Tensor:
        for block in range(1, 5):
            x = self.get_submodule(f"block{block}")(x)
        return x.flatten(1) if self.pool else F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def inductive(self, support: Tensor, x: Tensor) -> Tensor:
        """Outputs for `x` with the batch-norm statistics of the support set in every layer."""
        for block in range(1, 5):
            layers = self.get_submodule(f"block{block}")
            support, x = layers.conv(support), layers.conv(x)
            mean, variance = support.mean((0, 2, 3)), support.var((0, 2, 3), unbiased=False)
            weight, bias, epsilon = layers.norm.weight, layers.norm.bias, layers.norm.eps
            support, x = (
                F.relu(F.batch_norm(values, mean, variance, weight, bias, training=False, eps=epsilon))
                for values in (support, x)
            )
            if self.pool:
                support, x = F.max_pool2d(support, 2), F.max_pool2d(x, 2)
        return self.head(x.flatten(1) if self.pool else x.mean((2, 3)))


def with_values(module: nn.Module, params: Params) -> nn.Module:
    """The module, with a copy of these parameters loaded; the names must be equal."""
    module.to(next(iter(params.values())).dtype)
    module.load_state_dict({name: tensor.clone() for name, tensor in params.items()}, strict=True)
    return module


def values(module: nn.Module) -> Params:
    """A copy of the module's parameters."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def plain_gradient(module: nn.Module, loss: Tensor) -> Params:
    """Gradient of a scalar by the module's parameters; zero for those that it does not depend on."""
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return dict(zip((name for name, _ in module.named_parameters()), grads, strict=True))
