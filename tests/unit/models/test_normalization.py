"""Batch norm and its derivatives up to the third, eager, traced and under `vmap`, against its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from distmeta.models.normalization import EPSILON, batch_norm, context_batch_norm, group_norm

Function = Callable[..., tuple[Tensor, ...]]
TASKS, IMAGES, CHANNELS = 2, 3, 4


def definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt() * weight[:, None, None] + bias[:, None, None]


def derivative(function: Function, num_inputs: int) -> Function:
    """(inputs, cotangents) -> outputs of `function`, and the gradients by its inputs."""

    def differentiated(*arguments: Tensor) -> tuple[Tensor, ...]:
        outputs, pullback = vjp(function, *arguments[:num_inputs])
        return (*outputs, *pullback(arguments[num_inputs:]))

    return differentiated


def derivatives(norm: Callable[[Tensor, Tensor, Tensor], Tensor], order: int) -> Function:
    """The values of `norm` and all of its derivatives up to `order`."""
    function: Function = lambda *arguments: (norm(*arguments),)  # noqa: E731
    num_inputs, num_outputs = 3, 1
    for _ in range(order):
        function = derivative(function, num_inputs)
        num_inputs, num_outputs = num_inputs + num_outputs, num_outputs + num_inputs
    return function


def arguments_of(order: int, *, tasks: int | None = None) -> list[Tensor]:
    """Random x, weight and bias, then cotangents for each order."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.randn(*([tasks] if tasks else []), *shape, generator=generator, dtype=torch.float64)

    shapes: list[tuple[int, ...]] = [(IMAGES, CHANNELS, 5, 4), (CHANNELS,), (CHANNELS,)]
    outputs = shapes[:1]
    for _ in range(order):
        shapes, outputs = [*shapes, *outputs], [*outputs, *shapes]
    return [draw(shape) for shape in shapes]


def assert_close(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for left, right in zip(outputs, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_traced_derivatives_are_those_of_the_definition(order: int) -> None:
    function, expected = derivatives(batch_norm, order), derivatives(definition, order)
    arguments = arguments_of(order)
    traced = make_fx(function, tracing_mode="fake")(*arguments)
    assert_close(traced(*arguments), expected(*arguments))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("traced", [False, True])
def test_derivatives_under_vmap_are_those_of_the_definition(order: int, traced: bool) -> None:
    function, expected = vmap(derivatives(batch_norm, order)), vmap(derivatives(definition, order))
    arguments = arguments_of(order, tasks=TASKS)
    batched = make_fx(function, tracing_mode="fake")(*arguments) if traced else function
    assert_close(batched(*arguments), expected(*arguments))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_eager_derivatives_are_those_of_the_definition(order: int) -> None:
    function, expected = derivatives(batch_norm, order), derivatives(definition, order)
    arguments = arguments_of(order)
    assert_close(function(*arguments), expected(*arguments))


def test_images_behind_the_context_do_not_enter_the_statistics() -> None:
    x, weight, bias = arguments_of(0)
    normalised = context_batch_norm(x, 2, weight, bias)
    torch.testing.assert_close(normalised[:2], definition(x[:2], weight, bias))
    changed = torch.cat([x[:2], 10.0 * x[2:]])
    assert torch.equal(context_batch_norm(changed, 2, weight, bias)[:2], normalised[:2])
    assert not torch.equal(context_batch_norm(changed, 2, weight, bias)[2:], normalised[2:])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_torchs_also_in_its_second_derivatives(groups: int) -> None:
    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(x, groups, weight, bias)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.nn.functional.group_norm(x, groups, weight, bias, EPSILON)

    for order in (0, 1, 2):
        arguments = arguments_of(order, tasks=TASKS)
        each = [derivatives(torchs, order)(*(argument[task] for argument in arguments)) for task in range(TASKS)]
        expected = [torch.stack(outputs) for outputs in zip(*each, strict=True)]
        assert_close(vmap(derivatives(ours, order))(*arguments), expected)
