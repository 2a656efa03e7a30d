"""Compressed updates: error bounds, error feedback, sizes."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from distmeta.core.tensors import all_finite
from distmeta.core.types import Params
from distmeta.runtime.compression import BLOCK_SIZE, Compressor, Kind, decompress

KINDS: tuple[Kind, ...] = ("bf16", "int8")
SHAPES = {
    "weight": (70, 43),
    "bias": (7,),
    "scale": (),
    "none": (0, 3),
    "block": (BLOCK_SIZE,),
    "more": (BLOCK_SIZE + 1,),
}


def make_grad(seed: int, dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (10.0 ** (place - 3) * torch.randn(shape, generator=generator)).to(dtype)
        for place, (name, shape) in enumerate(SHAPES.items())
    }


def round_trip(kind: Kind, grad: Params) -> Params:
    return decompress(Compressor(kind).compress(grad))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_names_shapes_and_types_are_restored(kind: Kind, dtype: torch.dtype) -> None:
    grad = make_grad(0, dtype)
    restored = round_trip(kind, grad)
    assert list(restored) == list(grad)
    for name, tensor in grad.items():
        assert (restored[name].shape, restored[name].dtype) == (tensor.shape, dtype)


@pytest.mark.parametrize("seed", range(5))
def test_int8_errs_by_half_a_level_of_its_block_at_most(seed: int) -> None:
    grad = make_grad(seed)
    restored = round_trip("int8", grad)
    for name, tensor in grad.items():
        pieces = zip(tensor.reshape(-1).split(BLOCK_SIZE), restored[name].reshape(-1).split(BLOCK_SIZE), strict=True)
        for exact, rounded in pieces:
            if exact.numel():
                assert (exact - rounded).abs().max() <= exact.abs().max() / 254 * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_bf16_errs_by_half_a_unit_at_most(seed: int) -> None:
    grad = make_grad(seed)
    for name, rounded in round_trip("bf16", grad).items():
        assert bool(((grad[name] - rounded).abs() <= grad[name].abs() * 2.0**-8).all())


def test_ties_go_to_the_even_neighbour() -> None:
    levels = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    assert round_trip("int8", {"x": levels})["x"].tolist() == [127.0, 0.0, 2.0, 2.0, 0.0, -2.0]
    assert round_trip("bf16", {"x": torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8])})["x"].tolist() == [1.0, 1 + 2.0**-6]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_plus_the_residual_is_the_sum_of_all_gradients(kind: Kind) -> None:
    compressor = Compressor(kind)
    steps = 200
    total_grad = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    sent = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for step in range(steps):
        grad = make_grad(step)
        for name, tensor in decompress(compressor.compress(grad)).items():
            total_grad[name] += grad[name]
            sent[name] += tensor
    for name, total in total_grad.items():
        if total.numel():
            # Each step rounds `grad + residual` once, to a unit of float32.
            slack = steps * 2.0**-24 * 6 * 10.0 ** (list(SHAPES).index(name) - 3)
            assert (sent[name] + compressor.residual[name] - total).abs().max() <= slack
            single = Compressor(kind)
            single.compress(make_grad(0))
            assert compressor.residual[name].abs().max() <= 20 * single.residual[name].abs().max() + slack


def test_nothing_is_lost_where_sums_are_exact() -> None:
    """Whole numbers in bf16: grad + residual and grad + residual - sent need no rounding."""
    compressor = Compressor("bf16")
    generator = torch.Generator().manual_seed(0)
    total_grad, sent = [Fraction(0)] * 50, [Fraction(0)] * 50
    for _ in range(100):
        grad = torch.randint(-100_000, 100_000, (50,), generator=generator).float()
        rounded = decompress(compressor.compress({"x": grad}))["x"]
        total_grad = [total + Fraction(value) for total, value in zip(total_grad, grad.tolist(), strict=True)]
        sent = [total + Fraction(value) for total, value in zip(sent, rounded.tolist(), strict=True)]
    residual = [Fraction(value) for value in compressor.residual["x"].tolist()]
    assert [total + rest for total, rest in zip(sent, residual, strict=True)] == total_grad
    assert any(residual)


@pytest.mark.parametrize(("kind", "max_ratio"), [("bf16", 0.5), ("int8", 0.251)])
def test_sizes(kind: Kind, max_ratio: float) -> None:
    grad = {"x": torch.randn(100 * BLOCK_SIZE), "y": torch.randn(300, BLOCK_SIZE)}
    sent = sum(tensor.nbytes for tensor in Compressor(kind).compress(grad).tensors.values())
    assert sent <= max_ratio * sum(tensor.nbytes for tensor in grad.values()) * (1 + 1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-40, 1.0, 3e38])
def test_constant_tensors(kind: Kind, value: float) -> None:
    compressor = Compressor(kind)
    compressed = compressor.compress({"x": torch.full((3,), value)})
    restored = decompress(compressed)["x"]
    assert compressed.finite
    assert (restored + compressor.residual["x"]).tolist() == torch.full((3,), value).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.finfo(torch.float32).max])
def test_a_nonfinite_update_stays_so_and_leaves_the_residual_unchanged(kind: Kind, value: float) -> None:
    compressor = Compressor(kind)
    compressor.compress(make_grad(0))
    before = {name: tensor.clone() for name, tensor in compressor.residual.items()}
    bad = make_grad(1)
    bad["more"][BLOCK_SIZE - 3] = value
    compressed = compressor.compress(bad)
    # The largest float32 rounds to infinity, in int8 as 127 times a scale.
    assert not compressed.finite
    assert not all_finite(decompress(compressed))
    assert all(torch.equal(compressor.residual[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_integer_tensors_are_sent_unchanged(kind: Kind) -> None:
    grad = {"count": torch.tensor([3, -(2**40)]), "flag": torch.tensor([True])}
    compressor = Compressor(kind)
    restored = decompress(compressor.compress(grad))
    assert all(torch.equal(restored[name], grad[name]) for name in grad)
    assert compressor.residual == {}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_not_written_to(kind: Kind) -> None:
    grad = make_grad(0)
    compressor = Compressor(kind)
    compressor.compress(grad)
    compressor.compress(grad)
    assert all(torch.equal(tensor, make_grad(0)[name]) for name, tensor in grad.items())
