"""Batch norm by the statistics of the batch at hand (Ioffe & Szegedy 2015), its derivatives in few passes over memory.

Per channel, over the M = B * H * W entries:  xh = (x - mean) * r,  r = 1 / sqrt(var + eps),  y = weight * xh + bias.
With g the derivative by y, and overlines for means over the entries:

    dx      = weight * r * (g - _g_ - xh * _g xh_)        dweight = M * _g xh_        dbias = M * _g_

and with v, a, c the derivatives by dx, dweight, dbias (reverse mode over the line above, xh and r depending on x):

    by g      weight * r * (v - _v_ - xh * _v xh_) + a * xh + c
    by weight r * Q,                 Q = M * (_v g_ - _v_ _g_ - _v xh_ _g xh_)
    by x      r * (h - _h_ - xh * _h xh_) - weight * Q * r^2 * xh / M,
              with h = a * g - weight * r * (g * _v xh_ + v * _g xh_)

Each line needs one pass for its means and one for its result. What torch derives by itself from the definition needs
several times as many, and these passes, not the products, are what a compiled step would spend its time on.

Eager code takes torch's kernel, except under `vmap`: there its second derivative is wrong (torch 2.13), and the
definition is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from distmeta.models.batched import is_batched

EPSILON = 1e-5
_ENTRIES = (0, 2, 3)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, C, H, W] images normalised by their own statistics, scaled and shifted by `weight` and `bias` [C]."""
    if get_proxy_mode() is None:
        if is_batched(x) or is_batched(weight):
            return batch_norm_by(x, x.shape[0], weight, bias)
        return torch.batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON, torch.backends.cudnn.enabled)
    y: Tensor = _Norm.apply(x, weight, bias)[0]  # type: ignore[no-untyped-call]
    return y


def batch_norm_by(x: Tensor, num_counted: int, weight: Tensor, bias: Tensor) -> Tensor:
    """The same with the statistics of the first `num_counted` images alone."""
    variance, mean = torch.var_mean(x[:num_counted], dim=_ENTRIES, correction=0, keepdim=True)
    return (x - mean) * (_channels(weight) * torch.rsqrt(variance + EPSILON)) + _channels(bias)


def _channels(x: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return x[:, None, None]


def _mean(x: Tensor) -> Tensor:
    """Over the entries of each channel, image by image first.

    A compiler's sum runs through thousands of entries in a row. In drawings most of them are one and the same number,
    the background's, whose rounding errors then all point the same way.
    """
    return x.mean((2, 3), keepdim=True).mean(0, keepdim=True)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = _mean(x)
    return mean, torch.rsqrt(_mean((x - mean).square()) + EPSILON)


class _Norm(Function):
    """(x, weight, bias) -> y, and mean and r [1, C, 1, 1] for the derivatives."""

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
    """(g, x, weight) -> dx, dweight, dbias, and the means of g and g xh; mean and r are functions of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        xh = (x - mean) * r
        g1, g2 = _mean(g), _mean(g * xh)
        dx = (_channels(weight) * r) * (g - g1 - xh * g2)
        entries = x.numel() // x.shape[1]
        return dx, (g2 * entries).flatten(), (g1 * entries).flatten(), g1, g2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        g1, g2 = output[3:]
        ctx.mark_non_differentiable(g1, g2)
        ctx.save_for_backward(*inputs, g1, g2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, r, g1, g2 = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative is wanted: let it see how these depend on x and g
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
