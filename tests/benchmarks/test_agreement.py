from __future__ import annotations

import math

import pytest
import torch

from benchmarks.engine.common.agreement import Agreement, by_task, compare

REFERENCE = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "zero": torch.tensor([1e-12])}


def changed(**tensors: list[float]) -> dict[str, torch.Tensor]:
    return {**REFERENCE, **{name: torch.tensor(values) for name, values in tensors.items()}}


def test_errors_are_relative_to_the_whole_and_to_each_tensor() -> None:
    agreement = compare(changed(a=[3.0, 0.03]), REFERENCE)
    assert agreement.error == pytest.approx(0.03 / 5)
    assert (agreement.worst, agreement.worst_error) == ("a", pytest.approx(0.01))
    assert agreement.holds


@pytest.mark.parametrize("values", [[3.0, 0.06], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_wrong_gradient_does_not_agree(values: list[float]) -> None:
    agreement = compare(changed(a=values), REFERENCE)
    assert not agreement.holds
    assert agreement.worst == "a"


def test_a_tensor_whose_true_gradient_is_zero_is_measured_against_the_whole() -> None:
    agreement = compare(changed(zero=[0.01]), REFERENCE)
    assert agreement.error == 0.0
    assert agreement.silent_error == pytest.approx(0.002)
    assert agreement.holds
    assert not compare(changed(zero=[1.0]), REFERENCE).holds
    assert compare(changed(zero=[1.0]), REFERENCE, with_silent=False).holds


def test_errors_of_tasks_are_told_by_their_median_and_the_number_of_large_ones() -> None:
    def of(error: float, silent: float | None = 0.0) -> Agreement:
        return Agreement(error, "a", error, silent)

    found = by_task([of(1e-6), of(math.nan), of(2e-6), of(0.5), of(3e-6)])
    assert (found.median, found.over, found.tasks, found.worst) == (3e-6, 2, 5, math.inf)
    assert found.holds
    assert not by_task([of(1e-6), of(0.5), of(0.5)]).holds
    assert not by_task([of(1e-6, 0.5)] * 3).holds
    assert by_task([of(1e-6, None)]).silent is None
