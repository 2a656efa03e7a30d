"""Conjugate gradient (Hestenes & Stiefel 1952) for several systems at once, with a fixed number of operations.

    A_t x_t = b_t,   A_t symmetric positive definite, given by its products with vectors

Each system stops by itself: at its tolerance, or where a direction has no positive curvature (A_t is not positive
definite, as may happen with the Hessian of a network). It then stays as it is while the others go on, so that a
system's result does not depend on its neighbours.

Shapes: ... systems (none, or T tasks), P unknowns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """An approximate solution.

    Attributes:
        x: [..., P].
        residual: [...] `|b - A x| / |b|`, by the recursion of the method.
    """

    x: Tensor
    residual: Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], right: Tensor, *, steps: int, tolerance: float = 0.0
) -> Solution:
    """Solve from zero.

    Args:
        product: v -> A v, both [..., P]; called `steps` times.
        right: b, [..., P].
        steps: Iterations.
        tolerance: Relative residual at which a system stops.

    Returns:
        The solution. Where the first direction has no positive curvature it is `b` itself: steepest descent.
    """
    x, residual, direction = torch.zeros_like(right), right, right
    start = size = _dot(right, right)
    for step in range(steps):
        curved = product(direction)
        curvature = _dot(direction, curved)
        goes_on = (size > tolerance**2 * start) & (curvature > 0)
        length = torch.where(goes_on, size / torch.where(goes_on, curvature, 1.0), 0.0)
        if step == 0:
            x = torch.where((curvature > 0)[..., None], x, right)
        x = x + length[..., None] * direction
        residual = residual - length[..., None] * curved
        after = _dot(residual, residual)
        ratio = torch.where(goes_on, after / torch.where(goes_on, size, 1.0), 0.0)
        direction = torch.where(goes_on[..., None], residual + ratio[..., None] * direction, direction)
        size = torch.where(goes_on, after, size)
    return Solution(x, (size / torch.where(start > 0, start, 1.0)).sqrt())


def joined(tensors: Sequence[Tensor], num_axes: int = 0) -> Tensor:
    """The entries of tensors [..., *] as one [..., P]; `num_axes` is the number of axes before them."""
    return torch.cat([tensor.reshape(*tensor.shape[:num_axes], -1) for tensor in tensors], dim=-1)


def split(vector: Tensor, like: Sequence[Tensor], num_axes: int = 0) -> list[Tensor]:
    """Undo `joined`: tensors with the shapes of `like`."""
    sizes = [tensor.shape[num_axes:].numel() for tensor in like]
    parts = torch.split(vector, sizes, dim=-1)
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def as_named(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts [*] of a vector [P] by name."""
    return dict(zip(like, split(vector, list(like.values())), strict=True))


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(-1)
