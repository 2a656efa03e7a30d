"""Functions on flat mappings of tensors."""

from __future__ import annotations

import math

import pytest
import torch

from distmeta.core.tensors import all_finite, cloned, digest, global_norm

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("place", [0, 5, 999])
def test_one_entry_that_is_not_finite_is_detected(value: float, dtype: torch.dtype, place: int) -> None:
    tensor = torch.randn(1000).to(dtype)
    assert all_finite({"a": torch.zeros(2), "b": tensor})
    tensor[place] = value
    assert not all_finite({"a": torch.zeros(2), "b": tensor})


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_numbers_are_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    assert all_finite({"x": torch.tensor([largest, -largest] * 40, dtype=dtype)})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_integers_are_finite(dtype: torch.dtype) -> None:
    assert all_finite({"x": torch.ones(7, dtype=dtype)})


def test_empty_scalar_strided_and_complex_tensors() -> None:
    assert all_finite({})
    assert all_finite(
        {"none": torch.zeros(0, 3), "scalar": torch.tensor(1.0), "history": torch.ones(2, requires_grad=True)}
    )
    assert not all_finite({"scalar": torch.tensor(math.nan)})
    assert not all_finite({"strided": torch.full((4, 4), math.inf).T[::2]})
    assert all_finite({"complex": torch.ones(2, dtype=torch.complex64)})
    assert not all_finite({"complex": torch.tensor([1.0, complex(0.0, math.inf)])})


def test_the_global_norm_is_that_of_all_entries_together() -> None:
    generator = torch.Generator().manual_seed(0)
    params = {name: 10.0**place * torch.randn(57, generator=generator) for place, name in enumerate("dbcae")}
    assert global_norm(dict(sorted(params.items()))) == global_norm(params)
    expected = torch.cat([tensor.double() for tensor in params.values()]).norm().item()
    assert global_norm(params) == pytest.approx(expected, rel=1e-14)
    assert global_norm({}) == 0.0


def test_the_norm_does_not_depend_on_threads() -> None:
    tensor = torch.randn(300_001, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    norms = set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            norms.add(global_norm({"x": tensor, "y": tensor[:40_000].reshape(200, 200).T}))
    finally:
        torch.set_num_threads(threads)
    assert len(norms) == 1
    expected = math.sqrt(math.fsum(value * value for value in (*tensor.tolist(), *tensor[:40_000].tolist())))
    assert norms.pop() == pytest.approx(expected, rel=1e-14)


def test_the_norm_does_not_change_its_tensors() -> None:
    params = {"x": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    assert global_norm(params) == 5.0
    assert params["x"].tolist() == [3.0, 4.0]


def test_clones_are_detached_and_independent() -> None:
    params = {"x": torch.ones(2, requires_grad=True)}
    copies = cloned(params)
    copies["x"].zero_()
    assert not copies["x"].requires_grad
    assert params["x"].tolist() == [1.0, 1.0]


def test_digests_are_equal_only_for_identical_bits_names_dtypes_and_shapes() -> None:
    params = {"b": torch.zeros(2, 3), "a": torch.arange(4.0)}
    equal = {"a": torch.arange(8.0)[::2] / 2, "b": torch.zeros(3, 2).T}
    assert digest(equal) == digest(params) == digest(dict(reversed(params.items())))
    others = [
        {**params, "b": -torch.zeros(2, 3)},
        {**params, "b": torch.zeros(3, 2)},
        {**params, "b": torch.zeros(2, 3, dtype=torch.int32)},
        {"c": params["b"], "a": params["a"]},
        {"a": params["a"]},
    ]
    assert len({digest(other) for other in [params, *others]}) == 6
