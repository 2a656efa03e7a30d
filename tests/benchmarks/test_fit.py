"""Costs recovered from steps that were made from them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.cluster.common.overhead import StepTimes
from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.fit import Sample, fit_costs, misfit, solve
from benchmarks.cluster.model.simulation import Simulation

COSTS = Costs(
    begin_s=2e-3,
    begin_byte_s=3e-10,
    assign_s=4e-4,
    report_s=4e-4,
    report_byte_s=1e-10,
    outer_s=1e-3,
    outer_byte_s=5e-10,
    shard_s=2e-3,
    shard_byte_s=4e-10,
    add_byte_s=7e-11,
    ray_s=5e-4,
    ray_byte_s=2e-11,
    latency_s=1.9e-3,
)


def sample(workers: int, payload: float) -> Sample:
    simulation = Simulation(COSTS, Machines(workers, workers, 2), payload)
    total_s = [simulation.step([0.0] * workers) for _ in range(3)][-1]
    outer_s = COSTS.outer_s + COSTS.outer_byte_s * payload
    calls_s = workers * (COSTS.assign_s + COSTS.report_s + COSTS.report_byte_s * payload)
    serial_s = 1e-4 + outer_s + calls_s
    step = StepTimes(
        total_s=total_s,
        send_s=COSTS.begin_s + COSTS.begin_byte_s * payload + COSTS.assign_s + COSTS.latency_s,
        report_s=0.0,
        add_s=0.0,
        outer_s=outer_s,
        serial_s=serial_s,
        pull_cpu_s=1e-4,
        add_cpu_s=workers * COSTS.add_byte_s * payload,
        outer_cpu_s=outer_s,
        process_cpu_s=serial_s + workers * COSTS.ray_byte_s * payload,
        worker_cpu_s=COSTS.shard_s + COSTS.shard_byte_s * payload,
    )
    return Sample(workers, payload, step, daemons_s=workers * COSTS.ray_s)


SAMPLES = [sample(workers, payload) for workers in (2, 8) for payload in (5e5, 5e6, 4e7)]


def test_costs_are_recovered() -> None:
    costs = fit_costs(SAMPLES, cores=2)
    searched = {"latency_s": costs.latency_s, "begin_s": COSTS.begin_s + COSTS.latency_s - costs.latency_s}
    assert asdict(costs) == pytest.approx({**asdict(COSTS), **searched}, rel=1e-6, abs=1e-15)
    assert costs.latency_s == pytest.approx(COSTS.latency_s, rel=0.3)  # one of the candidates
    assert misfit(costs, SAMPLES, 2) < 0.01
    assert misfit(Costs(), SAMPLES, 2) == pytest.approx(len(SAMPLES))


def test_no_coefficient_is_negative() -> None:
    ones, size = np.ones(3), np.array([1.0, 2.0, 3.0])
    assert solve([ones, size], 2.0 + 3.0 * size) == [pytest.approx(2.0), pytest.approx(3.0)]
    constant, slope = solve([ones, size], np.array([3.0, 2.0, 1.0]))
    assert slope == 0.0
    assert constant > 0.0
    assert solve([ones], np.array([-1.0, -1.0, -1.0])) == [0.0]
