"""3x3 convolutions whose derivatives of any order are again convolutions.

torch's double backward of a convolution transposes tensors and uses kernels as large as images. But a convolution C is
bilinear in image and weight, and so are its gradients by image (X) and by weight (W): the three operations are closed
under differentiation.

    y = C(x, w)      gx = X(gy, w)      gw = W(x, gy)
    C: d/dx = X(g, w), d/dw = W(x, g)      X: d/dgy = C(g, w), d/dw = W(g, gy)      W: d/dx = X(gy, g), d/dgy = C(x, g)

Graphs that are traced for compilation use these, in channels-last layout. With per-task weights (under `vmap`) they are
batched matrix products over image patches (im2col). Eager code uses torch's operation, which has less Python overhead.

Shapes: T tasks, B images, C input channels, O output channels, H x W image, H' x W' output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from distmeta.models.batched import is_batched

KERNEL = 3
PADDING = 1
Grads = tuple[Tensor | None, ...]


def conv3x3(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """[B, C, H, W] images and [O, C, 3, 3] weights -> [B, O, H', W'], zero padding of 1.

    Args:
        x: Images.
        weight: Filters.
        stride: 1 or 2.
    """
    if get_proxy_mode() is None:
        return F.conv2d(x, weight, None, stride=stride, padding=PADDING)
    return _conv(_channels_last(x), _channels_last(weight), stride)


def _channels_last(x: Tensor) -> Tensor:
    """Convert to channels-last; one channel gets explicit strides, as both layouts are the same memory."""
    if is_batched(x):  # the matrix products under vmap choose their own layout
        return x
    if x.shape[1] == 1:
        return x.contiguous().as_strided(x.shape, (x[0].numel(), 1, x.shape[3], 1))
    return x.contiguous(memory_format=torch.channels_last)


def _conv_backward(gy: Tensor, x: Tensor, weight: Tensor, stride: int, output_mask: list[bool]) -> tuple[Tensor, ...]:
    strides, padding, dilation = [stride, stride], [PADDING, PADDING], [1, 1]
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        gy, x, weight, None, strides, padding, dilation, False, [0, 0], 1, output_mask
    )


def _conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return _Conv.apply(x, weight, stride)  # type: ignore[no-untyped-call, no-any-return]


def _grad_input(gy: Tensor, weight: Tensor, like: Tensor, stride: int) -> Tensor:
    return _GradInput.apply(gy, weight, like, stride)  # type: ignore[no-untyped-call, no-any-return]


def _grad_weight(x: Tensor, gy: Tensor, like: Tensor, stride: int) -> Tensor:
    return _GradWeight.apply(x, gy, like, stride)  # type: ignore[no-untyped-call, no-any-return]


class _Conv(Function):
    """C(x, w)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        return F.conv2d(x, weight, None, stride=stride, padding=PADDING)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.stride = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        gy = _channels_last(grads[0])
        gx = _grad_input(gy, weight, x.detach(), ctx.stride) if needs_x else None
        gw = _grad_weight(x, gy, weight.detach(), ctx.stride) if needs_weight else None
        return gx, gw, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, int]:
        x = _tasks_first(x, in_dims[0], info.batch_size)
        if in_dims[1] is None:
            return _unfold_tasks(_conv(_fold_tasks(x), weight, stride), info.batch_size), 0
        weight = _tasks_first(weight, in_dims[1], info.batch_size)
        patches, side = _im2col(x, stride)
        y = patches @ _weight_matrix(weight)
        return y.reshape(info.batch_size, x.shape[1], *side, -1).movedim(-1, 2), 0


class _GradInput(Function):
    """X(gy, w). `like` has the shape and layout of the image and is not differentiated."""

    @staticmethod
    def forward(gy: Tensor, weight: Tensor, like: Tensor, stride: int) -> Tensor:
        return _conv_backward(gy, like, weight, stride, [True, False, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        gy, weight, like, ctx.stride = inputs
        ctx.save_for_backward(gy, weight, like)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        gy, weight, _ = ctx.saved_tensors
        needs_gy, needs_weight, _, _ = ctx.needs_input_grad
        g = _channels_last(grads[0])
        ggy = _conv(g, weight, ctx.stride) if needs_gy else None
        gw = _grad_weight(g, gy, weight.detach(), ctx.stride) if needs_weight else None
        return ggy, gw, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], gy: Tensor, weight: Tensor, like: Tensor, stride: int
    ) -> tuple[Tensor, int]:
        tasks = info.batch_size
        gy, like = _tasks_first(gy, in_dims[0], tasks), _tasks_first(like, in_dims[2], tasks)
        if in_dims[1] is None:
            return _unfold_tasks(_grad_input(_fold_tasks(gy), weight, _fold_tasks(like), stride), tasks), 0
        weight = _tasks_first(weight, in_dims[1], tasks)
        patches = _flatten_positions(gy) @ _weight_matrix(weight).transpose(1, 2)
        return _col2im(patches, like.shape, stride), 0


class _GradWeight(Function):
    """W(x, gy). `like` has the shape and layout of the weight and is not differentiated."""

    @staticmethod
    def forward(x: Tensor, gy: Tensor, like: Tensor, stride: int) -> Tensor:
        return _conv_backward(gy, x, like, stride, [False, True, False])[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, gy, like, ctx.stride = inputs
        ctx.save_for_backward(x, gy, like)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, gy, _ = ctx.saved_tensors
        needs_x, needs_gy, _, _ = ctx.needs_input_grad
        g = _channels_last(grads[0])
        gx = _grad_input(gy, g, x.detach(), ctx.stride) if needs_x else None
        ggy = _conv(x, g, ctx.stride) if needs_gy else None
        return gx, ggy, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, gy: Tensor, like: Tensor, stride: int
    ) -> tuple[Tensor, int]:
        tasks = info.batch_size
        x, gy = _tasks_first(x, in_dims[0], tasks), _tasks_first(gy, in_dims[1], tasks)
        matrix = _im2col(x, stride)[0].transpose(1, 2) @ _flatten_positions(gy)
        return matrix.reshape(tasks, KERNEL, KERNEL, x.shape[2], -1).permute(0, 4, 3, 1, 2), 0


def _tasks_first(x: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Move the task axis to the front, or expand a tensor without one."""
    return x.expand(tasks, *x.shape) if dim is None else x.movedim(dim, 0)


def _fold_tasks(x: Tensor) -> Tensor:
    """[T, B, ...] -> [T * B, ...], channels last."""
    return _channels_last(x.flatten(0, 1))


def _unfold_tasks(x: Tensor, tasks: int) -> Tensor:
    return x.reshape(tasks, -1, *x.shape[1:])


def _weight_matrix(weight: Tensor) -> Tensor:
    """[T, O, C, 3, 3] -> [T, 9 C, O]."""
    return weight.permute(0, 3, 4, 2, 1).flatten(1, 3)


def _flatten_positions(x: Tensor) -> Tensor:
    """[T, B, O, H, W] -> [T, B * H * W, O]."""
    return x.movedim(2, -1).flatten(1, 3)


def _im2col(x: Tensor, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Image patches: [T, B, C, H, W] -> [T, B * H' * W', 9 C], and (H', W')."""
    x = F.pad(x.movedim(2, -1), (0, 0, PADDING, PADDING, PADDING, PADDING))
    height, width = (_output_size(x.shape[axis] - 2 * PADDING, stride) for axis in (2, 3))
    taps = [
        x[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(KERNEL)
        for j in range(KERNEL)
    ]
    return torch.cat(taps, -1).flatten(1, 3), (height, width)


def _col2im(patches: Tensor, shape: torch.Size, stride: int) -> Tensor:
    """The transpose of `_im2col`: [T, B * H' * W', 9 C] -> [T, B, C, H, W] = `shape`."""
    _, images, channels, height, width = shape
    side = (_output_size(height, stride), _output_size(width, stride))
    taps = torch.split(patches.reshape(shape[0], images, *side, -1), channels, -1)
    total: Tensor | None = None
    for tap, piece in enumerate(taps):
        i, j = divmod(tap, KERNEL)
        spread = piece.new_zeros(*shape[:2], height + 2 * PADDING, width + 2 * PADDING, channels).slice_scatter(
            _spread_columns(piece, width + 2 * PADDING, j, stride), 2, i, i + stride * (side[0] - 1) + 1, stride
        )
        total = spread if total is None else total + spread
    assert total is not None
    return total[:, :, PADDING : PADDING + height, PADDING : PADDING + width].movedim(-1, 2)


def _spread_columns(piece: Tensor, width: int, first: int, stride: int) -> Tensor:
    """Scatter the columns of [T, B, H', W', C] to `first`, `first + stride`, ... of `width` columns of zeros."""
    wide = piece.new_zeros(*piece.shape[:3], width, piece.shape[-1])
    return wide.slice_scatter(piece, 3, first, first + stride * (piece.shape[3] - 1) + 1, stride)


def _output_size(side: int, stride: int) -> int:
    return (side + 2 * PADDING - KERNEL) // stride + 1
