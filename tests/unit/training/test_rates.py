"""Throughput, by hand."""

from __future__ import annotations

import pytest

from distmeta.runtime.executor import Result
from distmeta.training.rates import Rates


def result(data_wait_s: float, compute_s: float) -> Result:
    return Result(0, None, 0, data_wait_s, compute_s)


def test_rates_are_sums_over_the_steps() -> None:
    rates = Rates()
    rates.add([result(0.5, 1.0), result(0.0, 1.5)], elapsed_s=2.0, tasks=8, workers=2)
    rates.add([result(0.5, 2.0)], elapsed_s=3.0, tasks=7, workers=1)
    # Workers were available for 2 * 2 + 3 * 1 seconds.
    assert rates.metrics() == pytest.approx(
        {"tasks_per_s": 15 / 5, "data_wait_share": 1.0 / 7, "worker_busy_share": 4.5 / 7}
    )


def test_rates_without_steps_are_zero() -> None:
    assert Rates().metrics() == {"tasks_per_s": 0.0, "data_wait_share": 0.0, "worker_busy_share": 0.0}
