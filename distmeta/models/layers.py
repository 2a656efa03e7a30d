"""Layers that take the place of torch's where those keep state or draw from torch's generator.

`frame_of_call` makes the frame of a forward pass known to the layers inside a module. It belongs to the thread: lanes
call the same module at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional
from typing_extensions import override

from distmeta.models.base import Frame
from distmeta.models.batched import is_batched
from distmeta.models.random import dropout


@dataclass
class _Call:
    """A forward pass.

    Attributes:
        frame: What it reads and records.
        by_batch: Whether batch norm normalises by the batch even where running statistics exist.
        num_draws: Number of draws of random layers so far.
    """

    frame: Frame
    by_batch: bool
    num_draws: int = 0


class _Current(threading.local):
    call: _Call | None = None


_current = _Current()


@contextmanager
def frame_of_call(frame: Frame, *, by_batch: bool) -> Iterator[None]:
    """Make a frame that of the forward pass in the block."""
    before, _current.call = _current.call, _Call(frame, by_batch)
    try:
        yield
    finally:
        _current.call = before


def current_frame() -> Frame:
    """The frame of the forward pass that runs in this thread."""
    return _call().frame


def _call() -> _Call:
    assert _current.call is not None, "a layer is called outside of its network"
    return _current.call


def layer_norm(x: Tensor, layer: nn.LayerNorm, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Layer norm (Ba et al. 2016) with these weights, exact to any order under `vmap`.

    torch's own is wrong where tasks have weights of their own: its batching rule for the backward pass takes mean and
    deviation as constants, so second derivatives are off by some percent. Without weights it is exact.
    """
    y = functional.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class ExactLayerNorm(nn.LayerNorm):
    """Layer norm by `layer_norm`, with the weights of torch's layer."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm.normalized_shape, norm.eps, elementwise_affine=False)
        self.weight, self.bias = norm.weight, norm.bias

    @override
    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self, self.weight, self.bias)


class ExactInstanceNorm(nn.Module):
    """Instance norm (Ulyanov et al. 2016) with the weights of torch's layer, exact to any order under `vmap`.

    torch's own is wrong where tasks have weights of their own, as its layer norm is: without weights it is exact, and
    so it is outside of `vmap`.
    """

    def __init__(self, norm: nn.modules.instancenorm._InstanceNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.weight is not None and get_proxy_mode() is None and not (is_batched(x) or is_batched(self.weight)):
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)  # fewer passes
        shape = (-1, *([1] * (x.dim() - 2)))
        y = functional.instance_norm(x, eps=self.eps)
        y = y if self.weight is None else y * self.weight.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)


class RunningNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015) whose running statistics go in and out through the frame.

    In training the statistics are those of the batch, and the running ones move towards them, the variance without its
    bias, as torch's do.

    Args:
        norm: torch's layer.
        name: Its name in the network, and the prefix of its running statistics.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, name: str) -> None:
        super().__init__()
        self.name, self.eps, self.momentum, self.tracks = name, norm.eps, norm.momentum, norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias

    def initial(self, num_features: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Running statistics before the first batch."""
        if not self.tracks:
            return {}
        mean, variance = torch.zeros(num_features, dtype=dtype), torch.ones(num_features, dtype=dtype)
        return {f"{self.name}.running_mean": mean, f"{self.name}.running_var": variance}

    @override
    def forward(self, x: Tensor) -> Tensor:
        call = _call()
        buffers, shape = call.frame.buffers, (1, -1, *([1] * (x.dim() - 2)))
        if self.tracks and call.frame.share is not None:
            mean, variance = self._mixed(buffers, x, call.frame.share)
        elif self.tracks and not call.frame.training and not call.by_batch:
            mean, variance = buffers[f"{self.name}.running_mean"], buffers[f"{self.name}.running_var"]
        else:
            variance, mean = torch.var_mean(x, dim=[dim for dim in range(x.dim()) if dim != 1], correction=0)
            if self.tracks and call.frame.training:
                self._move(buffers, mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        y = (x - mean.reshape(shape)) * scale.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def _mixed(self, buffers: dict[str, Tensor], x: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """A mixture of the running statistics and those of the batch, which becomes the running statistics."""
        variance, mean = torch.var_mean(x, dim=[dim for dim in range(x.dim()) if dim != 1], correction=0)
        for key, value in (("running_mean", mean), ("running_var", variance)):
            before = buffers[f"{self.name}.{key}"]
            buffers[f"{self.name}.{key}"] = (1 - share) * before + share * value
        return buffers[f"{self.name}.running_mean"], buffers[f"{self.name}.running_var"]

    def _move(self, buffers: dict[str, Tensor], mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.momentum is not None
        moves = {"running_mean": mean, "running_var": variance * (count / max(1, count - 1))}
        for key, value in moves.items():
            before = buffers[f"{self.name}.{key}"]
            buffers[f"{self.name}.{key}"] = (1 - self.momentum) * before + self.momentum * value


class SeededDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws from the seed of the task.

    Args:
        p: Probability of zero.
        spatial: Number of trailing axes that share a draw (0 for entries, 2 for the channels of images).
    """

    def __init__(self, p: float, spatial: int = 0) -> None:
        super().__init__()
        self.p, self.spatial = p, spatial

    @override
    def forward(self, x: Tensor) -> Tensor:
        call = _call()
        if not call.frame.training or not self.p or call.frame.seed is None:
            return x
        call.num_draws += 1
        return dropout(x, self.p, call.frame.seed, call.num_draws, self.spatial)
