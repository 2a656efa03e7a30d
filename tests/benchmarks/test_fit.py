"""Costs found again in steps that were made from them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.cluster.costs import Costs, Site
from benchmarks.cluster.fit import Cell, fit_costs, misfit, solve
from benchmarks.cluster.payload import Step
from benchmarks.cluster.simulate import Simulation

COSTS = Costs(
    begin_s=2e-3,
    begin_byte_s=3e-10,
    order_s=4e-4,
    answer_s=4e-4,
    answer_byte_s=1e-10,
    outer_s=1e-3,
    outer_byte_s=5e-10,
    task_s=2e-3,
    task_byte_s=4e-10,
    add_byte_s=7e-11,
    behind_s=5e-4,
    behind_byte_s=2e-11,
    latency_s=1.9e-3,
)


def cell(workers: int, payload: float) -> Cell:
    simulation = Simulation(COSTS, Site(workers, workers, 2), payload)
    total_s = [simulation.step([0.0] * workers) for _ in range(3)][-1]
    outer_s = COSTS.outer_s + COSTS.outer_byte_s * payload
    calls_s = workers * (COSTS.order_s + COSTS.answer_s + COSTS.answer_byte_s * payload)
    serial_s = 1e-4 + outer_s + calls_s
    step = Step(
        total_s=total_s,
        send_s=COSTS.begin_s + COSTS.begin_byte_s * payload + COSTS.order_s + COSTS.latency_s,
        report_s=0.0,
        add_s=0.0,
        outer_s=outer_s,
        serial_s=serial_s,
        pull_cpu_s=1e-4,
        add_cpu_s=workers * COSTS.add_byte_s * payload,
        outer_cpu_s=outer_s,
        process_cpu_s=serial_s + workers * COSTS.behind_byte_s * payload,
        worker_cpu_s=COSTS.task_s + COSTS.task_byte_s * payload,
    )
    return Cell(workers, payload, step, daemons_s=workers * COSTS.behind_s)


CELLS = [cell(workers, payload) for workers in (2, 8) for payload in (5e5, 5e6, 4e7)]


def test_costs_are_found_again() -> None:
    found = fit_costs(CELLS, cores=2)
    tried = {"latency_s": found.latency_s, "begin_s": COSTS.begin_s + COSTS.latency_s - found.latency_s}
    assert asdict(found) == pytest.approx({**asdict(COSTS), **tried}, rel=1e-6, abs=1e-15)
    assert found.latency_s == pytest.approx(COSTS.latency_s, rel=0.3)  # one of those that are tried
    assert misfit(found, CELLS, 2) < 0.01
    assert misfit(Costs(), CELLS, 2) == pytest.approx(len(CELLS))


def test_no_coefficient_is_negative() -> None:
    one, size = np.ones(3), np.array([1.0, 2.0, 3.0])
    assert solve([one, size], 2.0 + 3.0 * size) == [pytest.approx(2.0), pytest.approx(3.0)]
    found = solve([one, size], np.array([3.0, 2.0, 1.0]))
    assert found[1] == 0.0
    assert found[0] > 0.0
    assert solve([one], np.array([-1.0, -1.0, -1.0])) == [0.0]
