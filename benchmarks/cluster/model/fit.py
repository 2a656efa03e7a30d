"""Fit of the model's costs to steps measured on this machine.

Each cost is a line `a + b * payload`, fitted to medians of instant steps (workers that report at once) of few workers:

    begin              seconds until the first worker begins on an idle machine, less those of an assignment and message
    assign, report     processor seconds of the driver's thread; those per step are separated from those per worker
    outer, shard, add  processor seconds
    ray                processor seconds of Ray's threads in the driver and of its own processes, per report

The rest of a step is waiting without a processor: the latency of a message, found by search.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.cluster.common.overhead import StepTimes
from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.simulation import Simulation

Floats = npt.NDArray[np.float64]

LATENCIES_S = (0.0, *(1e-4 * 1.25**power for power in range(24)))
"""Candidates for the latency: 0, and 0.1 to 17 ms."""
_ASSIGN_SHARE = 0.5
"""Assignments and reports are measured together; this share of their constant time is for the assignment."""
_SIMULATED_STEPS = 4


@dataclass(frozen=True)
class Sample:
    """Instant steps of some workers with updates of some size.

    Attributes:
        workers: Actors, and shards of a step.
        payload: Bytes of an update.
        step: Medians.
        daemons_s: Processor seconds of Ray's own processes per step.
    """

    workers: int
    payload: float
    step: StepTimes
    daemons_s: float = 0.0


def fit_costs(samples: Sequence[Sample], cores: int) -> Costs:
    """The costs that explain the samples best.

    Args:
        samples: At two numbers of workers and two payloads at least.
        cores: Of this machine.
    """
    workers = np.array([sample.workers for sample in samples], dtype=np.float64)
    payload = np.array([sample.payload for sample in samples], dtype=np.float64)
    ones = np.ones_like(workers)

    def fitted(columns: Sequence[Floats], seconds: Callable[[Sample], float]) -> list[float]:
        return solve(columns, np.array([seconds(sample) for sample in samples]))

    line = [ones, payload]
    per_worker = [ones, payload, workers, workers * payload]
    send_s, send_byte_s = fitted(line, lambda sample: sample.step.send_s)
    outer_s, outer_byte_s = fitted(line, lambda sample: sample.step.outer_cpu_s)
    shard_s, shard_byte_s = fitted(line, lambda sample: sample.step.worker_cpu_s)
    (add_byte_s,) = fitted([workers * payload], lambda sample: sample.step.add_cpu_s)
    _, _, call_s, report_byte_s = fitted(
        per_worker, lambda sample: sample.step.serial_s - sample.step.outer_cpu_s - sample.step.pull_cpu_s
    )
    _, _, ray_s, ray_byte_s = fitted(
        per_worker, lambda sample: sample.step.process_cpu_s - sample.step.serial_s + sample.daemons_s
    )
    costs = Costs(
        begin_byte_s=send_byte_s,
        assign_s=_ASSIGN_SHARE * call_s,
        report_s=(1 - _ASSIGN_SHARE) * call_s,
        report_byte_s=report_byte_s,
        outer_s=outer_s,
        outer_byte_s=outer_byte_s,
        shard_s=shard_s,
        shard_byte_s=shard_byte_s,
        add_byte_s=add_byte_s,
        ray_s=ray_s,
        ray_byte_s=ray_byte_s,
    )
    candidates = [
        replace(costs, latency_s=latency_s, begin_s=max(0.0, send_s - costs.assign_s - latency_s))
        for latency_s in LATENCIES_S
    ]
    return min(candidates, key=lambda candidate: misfit(candidate, samples, cores))


def misfit(costs: Costs, samples: Sequence[Sample], cores: int) -> float:
    """Sum of squares of the relative errors of whole steps."""
    total = 0.0
    for sample in samples:
        simulation = Simulation(costs, Machines(sample.workers, sample.workers, cores), sample.payload)
        for _ in range(_SIMULATED_STEPS):
            step_s = simulation.step([0.0] * sample.workers)
        total += (step_s / sample.step.total_s - 1.0) ** 2
    return total


def solve(columns: Sequence[Floats], values: Floats) -> list[float]:
    """Non-negative coefficients with the least sum of squared relative errors. All subsets of columns are tried."""
    matrix, target = np.stack(columns, axis=1) / values[:, None], np.ones_like(values)
    best, least = [0.0] * len(columns), float("inf")
    for count in range(1, len(columns) + 1):
        for subset in itertools.combinations(range(len(columns)), count):
            solution, *_ = np.linalg.lstsq(matrix[:, subset], target, rcond=None)
            error = float(np.square(matrix[:, subset] @ solution - target).sum())
            if error < least and bool((solution >= 0).all()):
                coefficients = dict(zip(subset, solution.tolist(), strict=True))
                best, least = [coefficients.get(column, 0.0) for column in range(len(columns))], error
    return best
