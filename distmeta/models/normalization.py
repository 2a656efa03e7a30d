"""Batch norm with batch statistics (Ioffe & Szegedy 2015), and its derivatives in few passes over memory.

Per channel, over its M = B * H * W values, with m[.] the mean over them:

    xh = (x - m[x]) * r        r = 1 / sqrt(var + eps)        y = weight * xh + bias

First derivatives, with g the gradient by y:

    dx = weight * r * (g - m[g] - xh * m[g xh])        dweight = M * m[g xh]        dbias = M * m[g]

Second derivatives, with v, a, c the gradients by dx, dweight, dbias:

    by g       weight * r * (v - m[v] - xh * m[v xh]) + a * xh + c
    by weight  r * Q                 with Q = M * (m[v g] - m[v] m[g] - m[v xh] m[g xh])
    by x       r * (h - m[h] - xh * m[h xh]) - weight * Q * r^2 * xh / M
               with h = a * g - weight * r * (g * m[v xh] + v * m[g xh])

Each line takes one pass for its means and one for its result. Autograd of the definition takes several times as many,
and compiled steps are limited by these passes over memory.

Eager code uses torch's kernel, except under `vmap`, where its second derivative is wrong (torch 2.13): there the
definition is used.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from distmeta.models.batched import is_batched

EPSILON = 1e-5
_BATCH_DIMS = (0, 2, 3)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise images [B, C, H, W] by their own statistics; scale and shift by `weight` and `bias` [C]."""
    if get_proxy_mode() is None:
        if is_batched(x) or is_batched(weight):
            return context_batch_norm(x, x.shape[0], weight, bias)
        return torch.batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON, torch.backends.cudnn.enabled)
    y: Tensor = _Norm.apply(x, weight, bias)[0]  # type: ignore[no-untyped-call]
    return y


def context_batch_norm(x: Tensor, num_context: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch norm of all images with the statistics of the first `num_context` ones."""
    variance, mean = torch.var_mean(x[:num_context], dim=_BATCH_DIMS, correction=0, keepdim=True)
    return (x - mean) * (_channels(weight) * torch.rsqrt(variance + EPSILON)) + _channels(bias)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise each image [B, C, H, W] by the statistics of its own groups of channels (Wu & He 2018).

    By the definition: torch's kernel has no exact second derivative under `vmap` (torch 2.13).
    """
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
    normalised = ((grouped - mean) * torch.rsqrt(variance + EPSILON)).reshape(x.shape)
    return normalised * _channels(weight) + _channels(bias)


def _channels(x: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return x[:, None, None]


def _mean(x: Tensor) -> Tensor:
    """Mean over each channel, first within images and then over images.

    A compiled sum adds thousands of values sequentially. In drawings most of them equal the background's, so that the
    rounding errors would all have the same sign.
    """
    return x.mean((2, 3), keepdim=True).mean(0, keepdim=True)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = _mean(x)
    return mean, torch.rsqrt(_mean((x - mean).square()) + EPSILON)


class _Norm(Function):
    """(x, weight, bias) -> y, and m[x] and r [1, C, 1, 1] for the derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, r = _statistics(x)
        return (x - mean) * (r * _channels(weight)) + _channels(bias), mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _ = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, weight, mean, r)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(_NormBack.apply(grads[0], *ctx.saved_tensors)[:3])  # type: ignore[no-untyped-call]


class _NormBack(Function):
    """(g, x, weight) -> dx, dweight, dbias, and m[g] and m[g xh]; `mean` and `r` are functions of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        xh = (x - mean) * r
        g1, g2 = _mean(g), _mean(g * xh)
        dx = (_channels(weight) * r) * (g - g1 - xh * g2)
        m = x.numel() // x.shape[1]
        return dx, (g2 * m).flatten(), (g1 * m).flatten(), g1, g2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        g1, g2 = output[3:]
        ctx.mark_non_differentiable(g1, g2)
        ctx.save_for_backward(*inputs, g1, g2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, r, g1, g2 = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a third derivative: recompute them as functions of x and g
            mean, r = _statistics(x)
            g1, g2 = _mean(g), _mean(g * ((x - mean) * r))
        v, a, c = grads[0], _channels(grads[1]), _channels(grads[2])
        w, xh = _channels(weight), (x - mean) * r
        v1, v2, vg = _mean(v), _mean(v * xh), _mean(v * g)
        q = vg - v1 * g1 - v2 * g2
        by_g = (w * r) * (v - v1 - xh * v2) + a * xh + c
        by_weight = r * q * (x.numel() // x.shape[1])
        wr = w * r
        h = a * g - wr * (g * v2 + v * g2)
        h1 = a * g1 - wr * (g1 * v2 + v1 * g2)
        h2 = a * g2 - wr * (2 * g2 * v2)
        by_x = r * (h - h1 - xh * (h2 + wr * q))
        return by_g, by_x, by_weight.flatten(), None, None
