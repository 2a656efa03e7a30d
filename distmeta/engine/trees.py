"""Pytrees (dicts, tuples, named tuples) as flat tuples of their tensors, and derivatives between such tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Structure:
    """A pytree without its tensors; leaves that are no tensors belong to it.

    Attributes:
        spec: torch's own description.
        others: The leaves that are no tensors; None where a tensor goes.
        is_tensor: Which leaves are tensors.
    """

    spec: TreeSpec
    others: tuple[Any, ...]
    is_tensor: tuple[bool, ...]

    def rebuild(self, tensors: Sequence[Tensor]) -> Any:
        """The pytree with these tensors."""
        remaining = iter(tensors)
        leaves = [
            next(remaining) if is_tensor else leaf for is_tensor, leaf in zip(self.is_tensor, self.others, strict=True)
        ]
        return tree_unflatten(leaves, self.spec)


def flatten(tree: Any) -> tuple[tuple[Tensor, ...], Structure]:
    """The tensors of a pytree in order, and the structure that `rebuild`s it."""
    leaves, spec = tree_flatten(tree)
    flags = tuple(isinstance(leaf, Tensor) for leaf in leaves)
    others = tuple(None if is_tensor else leaf for is_tensor, leaf in zip(flags, leaves, strict=True))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor)), Structure(spec, others, flags)


def graph_leaves(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same values, sharing memory, as leaves of a new autograd graph; floating-point ones require a gradient."""
    return tuple(
        tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor.detach() for tensor in tensors
    )


def derivatives(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product through an existing autograd graph.

    Args:
        outputs: Tensors computed from `inputs`.
        inputs: What to differentiate by.
        cotangents: One for each output; None is zero.

    Returns:
        Derivatives of `sum(outputs * cotangents)` by each input; None is zero.
    """
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and output.requires_grad
    ]
    differentiable = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    grads: list[Tensor | None] = [None] * len(inputs)
    if pairs and differentiable:
        nonzero = torch.autograd.grad(
            [output for output, _ in pairs],
            [inputs[i] for i in differentiable],
            [cotangent for _, cotangent in pairs],
            allow_unused=True,
        )
        for i, grad in zip(differentiable, nonzero, strict=True):
            grads[i] = grad
    return tuple(grads)
