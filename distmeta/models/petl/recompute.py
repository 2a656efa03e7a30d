"""Blocks that keep their inputs alone: what they compute is computed again in the backward pass (activation
checkpointing, Chen et al. 2016, arXiv 1604.06174).

    forward:   y = f(x)                            keeps x
    backward:  x' = (vector-Jacobian product of f at x)(y')      is recomputed in the same way

The backward pass is the same operation applied to the product, so that every order of derivatives keeps inputs alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from typing_extensions import override

from distmeta.models.petl.call import Call, Prefix, current, running
from distmeta.models.petl.families import block_of, is_block

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


def recompute_blocks(network: nn.Module) -> None:
    """Replace the forward of every block of a network of `transformers`."""
    for path, module in network.named_modules():
        if is_block(path) and not isinstance(module.forward, _Block):
            module.__dict__["forward"] = _Block(path, module)


def recomputed(function: Function, *tensors: Tensor) -> Tensors:
    """`function(*tensors)`, of which autograd keeps the arguments.

    Args:
        function: Pure; returns tensors.
        tensors: Everything that it may be differentiated by.
    """
    outputs: Tensors = _Recomputed.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return outputs


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @override
    @staticmethod
    def forward(function: Function, *tensors: Tensor) -> Tensors:
        return function(*tensors)

    @override
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        moving = tuple(place for place, tensor in enumerate(tensors) if tensor.is_floating_point())
        slopes = dict(
            zip(moving, recomputed(_Product(ctx.function, moving, len(tensors)), *tensors, *grads), strict=True)
        )
        return (None, *(slopes.get(place) for place in range(len(tensors))))


@dataclass(frozen=True)
class _Product:
    """The vector-Jacobian product of a function.

    Attributes:
        function: The function.
        moving: Places of the arguments that it is differentiated by.
        count: Number of its arguments.
    """

    function: Function
    moving: tuple[int, ...]
    count: int

    def __call__(self, *tensors: Tensor) -> Tensors:
        """From its arguments and the slopes by its results to the slopes by the moving arguments."""
        arguments, grads = list(tensors[: self.count]), tensors[self.count :]

        def of_moving(*values: Tensor) -> Tensors:
            placed = dict(zip(self.moving, values, strict=True))
            return self.function(*(placed.get(place, tensor) for place, tensor in enumerate(arguments)))

        pullback = torch.func.vjp(of_moving, *(arguments[place] for place in self.moving))[1]
        slopes: Tensors = pullback(grads)
        return slopes


@dataclass
class _Run:
    """A block as a function of tensors: those of its arguments, and what it reads of the call.

    Attributes:
        block: The block.
        number: Its number.
        form: Where the tensors belong.
        leaves: What of the arguments is no tensor, by place.
        outputs: Where the results belong, once it has run.
    """

    block: nn.Module
    number: int
    form: TreeSpec
    leaves: Mapping[int, Any]
    outputs: list[TreeSpec] = field(default_factory=list)

    def __call__(self, *tensors: Tensor) -> Tensors:
        remaining = iter(tensors)
        leaves = [self.leaves[i] if i in self.leaves else next(remaining) for i in range(self.form.num_leaves)]
        (arguments, options), (params, mask, prefix) = tree_unflatten(leaves, self.form)
        call = Call(params, mask, {} if prefix is None else {self.number: Prefix(*prefix)})
        with running(call):
            results, form = tree_flatten(self.block(*arguments, **options))
        assert all(isinstance(each, Tensor) for each in results), "a block returns tensors"
        self.outputs[:] = [form]
        return tuple(results)


class _Block:
    """The forward of a block."""

    def __init__(self, path: str, block: nn.Module) -> None:
        number = block_of(f"{path}.")
        assert number is not None
        self._prefix, self._number, self._block = f"{path}.", number, copy.copy(block)
        self._block.__dict__.pop("forward", None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        call = current()
        params = {name: tensor for name, tensor in call.params.items() if name.startswith(self._prefix)}
        prefix = call.prefixes.get(self._number)
        parts = None if prefix is None else (prefix.keys, prefix.values, prefix.gate)
        leaves, form = tree_flatten(((arguments, options), (params, call.mask, parts)))
        others = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        run = _Run(self._block, self._number, form, others)
        results = recomputed(run, *(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        return tree_unflatten(list(results), run.outputs[0])
