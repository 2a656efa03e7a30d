"""The traced convolution and its derivatives equal those of `F.conv2d`, with and without `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from distmeta.models.convolution import conv3x3

Conv = Callable[[Tensor, Tensor, int], Tensor]
IMAGES, OUT, TASKS = 3, 4, 2
SIDES = [(6, 6), (7, 4), (1, 2)]
# The task axis of image and weight, if any.
LIFTS: dict[str, tuple[int | None, int | None]] = {"images": (0, None), "weights": (None, 0), "both": (0, 0)}


def plain(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, None, stride=stride, padding=1)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shapes(channels: int, side: tuple[int, int], stride: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of image, weight and output."""
    out = tuple((length - 1) // stride + 1 for length in side)
    return (IMAGES, channels, *side), (OUT, channels, 3, 3), (IMAGES, OUT, *out)


def first(conv: Conv, stride: int) -> Callable[..., tuple[Tensor, ...]]:
    """(x, w, g) -> y, g dy/dx, g dy/dw."""

    def function(x: Tensor, weight: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        y, pullback = vjp(lambda x, weight: conv(x, weight, stride), x, weight)
        return (y, *pullback(g))

    return function


def second(conv: Conv, stride: int) -> Callable[..., tuple[Tensor, ...]]:
    """(x, w, g, cotangents of `first`) -> outputs of `first`, and its gradients by x, w and g."""

    def function(x: Tensor, weight: Tensor, g: Tensor, *cotangents: Tensor) -> tuple[Tensor, ...]:
        values, pullback = vjp(first(conv, stride), x, weight, g)
        return (*values, *pullback(cotangents))

    return function


def third(conv: Conv, stride: int) -> Callable[..., tuple[Tensor, ...]]:
    """Gradient of half the sum of squares of the outputs of `second`."""

    def function(*arguments: Tensor) -> tuple[Tensor, ...]:
        values, pullback = vjp(second(conv, stride), *arguments)
        return pullback(values)

    return function


def arguments(channels: int, side: tuple[int, int], stride: int, lift: Sequence[int | None] = ()) -> list[Tensor]:
    """x, w, g and cotangents for `second`, with task axes as in `lift`; all tensors after x and w have one."""
    x, weight, y = shapes(channels, side, stride)
    tensor_shapes = [x, weight, y, y, x, weight]
    dims = [*lift, *[0] * 4] if lift else [None] * 6
    return [
        draw(*(() if dim is None else (TASKS,)), *shape, seed=i)
        for i, (shape, dim) in enumerate(zip(tensor_shapes, dims, strict=True))
    ]


def assert_close(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for left, right in zip(outputs, expected, strict=True):
        assert left.shape == right.shape
        assert float((left - right).abs().max()) <= 1e-12 * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_derivatives_are_torchs_own(stride: int, channels: int, side: tuple[int, int]) -> None:
    inputs = arguments(channels, side, stride)
    module = make_fx(second(conv3x3, stride), tracing_mode="fake")(*inputs)
    assert_close(module(*inputs), second(plain, stride)(*inputs))


@pytest.mark.parametrize("side", [SIDES[0], *(pytest.param(side, marks=pytest.mark.slow) for side in SIDES[1:])])
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lift", [pytest.param("images", marks=pytest.mark.slow), "weights", "both"])
@pytest.mark.thorough
def test_values_and_derivatives_under_vmap_are_torchs_own(
    lift: str, stride: int, channels: int, side: tuple[int, int]
) -> None:
    inputs, in_dims = arguments(channels, side, stride, LIFTS[lift]), (*LIFTS[lift], 0, 0, 0, 0)
    module = make_fx(vmap(second(conv3x3, stride), in_dims=in_dims), tracing_mode="fake")(*inputs)
    assert_close(module(*inputs), vmap(second(plain, stride), in_dims=in_dims)(*inputs))


@pytest.mark.parametrize("lift", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in LIFTS)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.thorough
def test_third_derivatives_are_torchs_own(stride: int, lift: str | None) -> None:
    inputs = arguments(2, (5, 6), stride, LIFTS[lift] if lift else ())

    def lifted(conv: Conv) -> Callable[..., tuple[Tensor, ...]]:
        return vmap(third(conv, stride), in_dims=(*LIFTS[lift], 0, 0, 0, 0)) if lift else third(conv, stride)

    module = make_fx(lifted(conv3x3), tracing_mode="fake")(*inputs)
    assert_close(module(*inputs), lifted(plain)(*inputs))


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_derivatives_may_be_taken_outside_of_vmap(stride: int, lift: str) -> None:
    inputs = arguments(2, (7, 6), stride, LIFTS[lift])[:3]

    def outside(conv: Conv) -> Callable[..., tuple[Tensor, ...]]:
        def function(x: Tensor, weight: Tensor, g: Tensor) -> tuple[Tensor, ...]:
            tasks = vmap(lambda x, weight: conv(x, weight, stride), in_dims=LIFTS[lift])
            y, pullback = vjp(tasks, x, weight)
            return (y, *pullback(g))

        return function

    module = make_fx(outside(conv3x3), tracing_mode="fake")(*inputs)
    assert_close(module(*inputs), outside(plain)(*inputs))


@pytest.mark.parametrize("side", [(6, 6), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_traced_derivatives_are_those_of_finite_differences(stride: int, side: tuple[int, int]) -> None:
    x, weight, g, *_ = inputs = arguments(2, side, stride)
    first_order = make_fx(first(conv3x3, stride), tracing_mode="fake")(x, weight, g)
    second_order = make_fx(second(conv3x3, stride), tracing_mode="fake")(*inputs)
    # Along a line, `first` is a polynomial of second degree, for which central differences of any step are exact.
    direction = [draw(*tensor.shape, seed=20 + i) for i, tensor in enumerate((x, weight, g))]
    ahead, behind = (
        first_order(*(a + step * b for a, b in zip((x, weight, g), direction, strict=True))) for step in (0.5, -0.5)
    )
    slope = sum(((a - b) * c).sum() for a, b, c in zip(ahead, behind, inputs[3:], strict=True))
    expected = sum((a * b).sum() for a, b in zip(second_order(*inputs)[3:], direction, strict=True))
    assert float(slope) == pytest.approx(float(expected), rel=1e-12)


def test_eager_code_is_torchs_own_operation() -> None:
    x, weight = arguments(2, (6, 6), 2)[:2]
    assert torch.equal(conv3x3(x, weight, 2), plain(x, weight, 2))


def test_second_derivatives_use_kernels_of_three_by_three_alone() -> None:
    inputs = arguments(2, (8, 8), 1)
    module = make_fx(second(conv3x3, 1), tracing_mode="fake")(*inputs)
    weights = [node.args[1] for node in module.graph.nodes if str(node.target).startswith("aten.convolution.")]
    assert weights
    assert {tuple(node.meta["val"].shape[2:]) for node in weights} == {(3, 3)}
