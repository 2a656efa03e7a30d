"""Nests of dicts and tuples as flat tuples of their tensors, and back; all else belongs to the structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Structure:
    """All of a nest but its tensors.

    Attributes:
        spec: torch's own description.
        rest: Leaves that are no tensors; None where a tensor goes.
        is_tensor: Which leaves are tensors.
    """

    spec: TreeSpec
    rest: tuple[Any, ...]
    is_tensor: tuple[bool, ...]

    def rebuild(self, tensors: Sequence[Tensor]) -> Any:
        """The nest around these tensors."""
        remaining = iter(tensors)
        leaves = [next(remaining) if here else leaf for here, leaf in zip(self.is_tensor, self.rest, strict=True)]
        return tree_unflatten(leaves, self.spec)


def flatten(tree: Any) -> tuple[tuple[Tensor, ...], Structure]:
    """The tensors of a nest in order, and what is needed to rebuild it."""
    leaves, spec = tree_flatten(tree)
    is_tensor = tuple(isinstance(leaf, Tensor) for leaf in leaves)
    rest = tuple(None if here else leaf for here, leaf in zip(is_tensor, leaves, strict=True))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor)), Structure(spec, rest, is_tensor)


def recording(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same values as leaves of a new graph, where they have a derivative."""
    return tuple(
        tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor.detach() for tensor in tensors
    )


def derivatives(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product: derivatives by `inputs` of the sum of `outputs` times `cotangents`; None is zero."""
    pairs = [
        (out, cotangent)
        for out, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and out.requires_grad
    ]
    wanted = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    found: list[Tensor | None] = [None] * len(inputs)
    if pairs and wanted:
        grads = torch.autograd.grad(
            [out for out, _ in pairs], [inputs[i] for i in wanted], [g for _, g in pairs], allow_unused=True
        )
        for i, grad in zip(wanted, grads, strict=True):
            found[i] = grad
    return tuple(found)
