from __future__ import annotations

import math

import pytest
import torch

from benchmarks.engine.agreement import compare

REFERENCE = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "zero": torch.tensor([1e-12])}


def changed(**tensors: list[float]) -> dict[str, torch.Tensor]:
    return {**REFERENCE, **{name: torch.tensor(values) for name, values in tensors.items()}}


def test_errors_are_relative_to_the_whole_and_to_each_tensor() -> None:
    found = compare(changed(a=[3.0, 0.03]), REFERENCE)
    assert found.error == pytest.approx(0.03 / 5)
    assert (found.worst, found.worst_error) == ("a", pytest.approx(0.01))
    assert found.holds


@pytest.mark.parametrize("values", [[3.0, 0.06], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_wrong_signal_does_not_agree(values: list[float]) -> None:
    found = compare(changed(a=values), REFERENCE)
    assert not found.holds
    assert found.worst == "a"


def test_a_tensor_whose_true_signal_is_zero_is_measured_against_the_whole() -> None:
    found = compare(changed(zero=[0.01]), REFERENCE)
    assert found.error == 0.0
    assert found.silent_error == pytest.approx(0.002)
    assert found.holds
    assert not compare(changed(zero=[1.0]), REFERENCE).holds
    assert compare(changed(zero=[1.0]), REFERENCE, with_silent=False).holds
