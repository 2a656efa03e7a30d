"""Products with frozen weights that may be partitioned over the ranks of a group.

A partitioned weight (DeepSpeed, ZeRO-3) is in one piece only while it is used. Autograd would keep the piece that is
gone by the time of the backward pass; here the backward pass is the same operation with the weight transposed, which
gathers it anew, and so is the backward pass of that: every order of derivatives gathers what it needs.

Frozen weights get no gradient. All ranks must make the same calls in the same order, because each call is a gathering.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn import functional
from typing_extensions import override

from distmeta.core.ranks import exchange


@dataclass
class Counter:
    """Counts the gatherings of this process, to compare ranks with each other."""

    count: int = 0


gatherings = Counter()


def is_partitioned(weight: Tensor) -> bool:
    """Whether DeepSpeed holds the weight in pieces."""
    return hasattr(weight, "ds_status")


def shape_of(weight: Any) -> tuple[int, ...]:
    """The shape of a weight in one piece."""
    return tuple(weight.ds_shape if is_partitioned(weight) else weight.shape)


@contextmanager
def whole(weight: Any) -> Iterator[Tensor]:
    """A frozen weight in one piece, for the block."""
    if not is_partitioned(weight):
        yield weight
        return
    gatherings.count += 1
    with temporarily_clear_interpreter_stack():  # a buffer made inside a transform of torch.func would belong to it
        with exchange("gathering a frozen weight from the ranks"):
            weight.all_gather()
        table = weight.data
    try:
        yield table
    finally:
        weight.partition()


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch or of transformers."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def with_matrices(network: nn.Module) -> list[Any]:
    """The layers of a network whose weight is a matrix that is used by the functions below."""
    return [module for module in network.modules() if is_linear(module) or type(module) is nn.Embedding]


def round_matrices(network: nn.Module, dtype: torch.dtype) -> None:
    """Give the matrices of a network's linear layers and embeddings another type, each once if layers share it."""
    rounded: dict[nn.Parameter, nn.Parameter] = {}
    for layer in with_matrices(network):
        if layer.weight not in rounded:
            rounded[layer.weight] = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        layer.weight = rounded[layer.weight]


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """`x @ weight.T + bias`: [..., I] -> [..., O] for a weight [O, I], or [I, O] where it is `transposed`.

    With a weight of another type than `x`, operands and result of the product have the weight's type.
    """
    y: Tensor
    if weight.dtype != x.dtype:
        y = frozen_linear(x.to(weight.dtype), weight, transposed=transposed)
        return (y if bias is None else y + bias).to(x.dtype)  # the bias has the type of x, and so has the sum
    if not is_partitioned(weight):
        return functional.linear(x, weight.T if transposed else weight, bias)
    y = _Product.apply(x, _Hidden(weight), transposed)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias


def frozen_embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Rows of a weight: int64 [...] -> [..., D] for a weight [V, D]."""
    if not is_partitioned(weight):
        return functional.embedding(ids, weight)
    rows: Tensor = _Rows.apply(ids, _Hidden(weight))  # type: ignore[no-untyped-call]
    return rows


@dataclass(frozen=True)
class _Hidden:
    """A weight that autograd does not see among the arguments."""

    weight: Tensor


class _Product(torch.autograd.Function):
    """`x @ weight.T`, or `x @ weight` if it is transposed, for a partitioned weight."""

    generate_vmap_rule = False

    @override
    @staticmethod
    def forward(x: Tensor, hidden: _Hidden, transposed: bool) -> Tensor:
        with whole(hidden.weight) as weight:
            return x @ (weight if transposed else weight.T)

    @override
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Hidden, bool], output: Tensor) -> None:
        _, ctx.hidden, ctx.transposed = inputs

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(grads[0], ctx.hidden, not ctx.transposed), None, None  # type: ignore[no-untyped-call]

    @override
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        y: Tensor = _Product.apply(tangents[0], ctx.hidden, ctx.transposed)  # type: ignore[no-untyped-call]
        return y

    @override
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None, None], *arguments: Any) -> tuple[Tensor, int | None]:
        """All tasks in one product."""
        x, hidden, transposed = arguments
        x = x if in_dims[0] is None else x.movedim(in_dims[0], 0)
        y: Tensor = _Product.apply(x, hidden, transposed)  # type: ignore[no-untyped-call]
        return y, None if in_dims[0] is None else 0


class _Rows(torch.autograd.Function):
    """Rows of a partitioned weight. A function of its own, since transforms of torch.func must not see the pieces."""

    generate_vmap_rule = False

    @override
    @staticmethod
    def forward(ids: Tensor, hidden: _Hidden) -> Tensor:
        with whole(hidden.weight) as table:
            return functional.embedding(ids, table)

    @override
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Hidden], output: Tensor) -> None:
        return

    @override
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None

    @override
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], *arguments: Any) -> tuple[Tensor, int | None]:
        ids, hidden = arguments
        ids = ids if in_dims[0] is None else ids.movedim(in_dims[0], 0)
        rows: Tensor = _Rows.apply(ids, hidden)  # type: ignore[no-untyped-call]
        return rows, None if in_dims[0] is None else 0
