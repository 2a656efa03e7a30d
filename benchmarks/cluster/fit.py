"""The costs of the model (`benchmarks.cluster.simulate`) from steps that were measured on this machine.

Each cost is a line `a + b * payload`, fitted to medians of instant steps (workers that report at once) at few workers:

    begin        seconds until the first worker begins, when nothing else runs, less those of an order and its message
    orders, answers    processor seconds of the driver's thread, those of a step apart from those of each worker
    outer step, task   processor seconds
    behind       processor seconds of Ray's threads in the driver and of its own processes, for each answer

What is then missing in whole steps is waiting without a processor: the latency of a message, found by trying.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.cluster.costs import Costs, Site
from benchmarks.cluster.payload import Step
from benchmarks.cluster.simulate import Simulation

Floats = npt.NDArray[np.float64]

LATENCIES_S = tuple(1e-4 * 1.25**power for power in range(24))
"""What is tried for the latency: 0.1 to 17 ms."""
_ORDER_SHARE = 0.5
"""Orders and answers are seen together only; this much of their time that does not depend on bytes is for the order."""
_SIMULATED_STEPS = 4


@dataclass(frozen=True)
class Cell:
    """Instant steps of some workers with updates of some size.

    Attributes:
        workers: Actors, and shards of a step.
        payload: Bytes of an update.
        step: Medians.
        daemons_s: Processor seconds of Ray's own processes for a step.
    """

    workers: int
    payload: float
    step: Step
    daemons_s: float = 0.0


def fit_costs(cells: Sequence[Cell], cores: int) -> Costs:
    """The costs that explain these cells best.

    Args:
        cells: At two numbers of workers and two payloads at least.
        cores: Of this machine.
    """
    workers = np.array([cell.workers for cell in cells], dtype=np.float64)
    payload = np.array([cell.payload for cell in cells], dtype=np.float64)
    one = np.ones_like(workers)

    def seconds(of: Callable[[Cell], float]) -> Floats:
        return np.array([of(cell) for cell in cells])

    send_s, send_byte_s = solve([one, payload], seconds(lambda cell: cell.step.send_s))
    outer_s, outer_byte_s = solve([one, payload], seconds(lambda cell: cell.step.outer_cpu_s))
    task_s, task_byte_s = solve([one, payload], seconds(lambda cell: cell.step.worker_cpu_s))
    (add_byte_s,) = solve([workers * payload], seconds(lambda cell: cell.step.add_cpu_s))
    each = [one, payload, workers, workers * payload]
    _, _, call_s, answer_byte_s = solve(
        each, seconds(lambda cell: cell.step.serial_s - cell.step.outer_cpu_s - cell.step.pull_cpu_s)
    )
    _, _, behind_s, behind_byte_s = solve(
        each, seconds(lambda cell: cell.step.process_cpu_s - cell.step.serial_s + cell.daemons_s)
    )
    found = Costs(
        begin_byte_s=send_byte_s,
        order_s=_ORDER_SHARE * call_s,
        answer_s=(1 - _ORDER_SHARE) * call_s,
        answer_byte_s=answer_byte_s,
        outer_s=outer_s,
        outer_byte_s=outer_byte_s,
        task_s=task_s,
        task_byte_s=task_byte_s,
        add_byte_s=add_byte_s,
        behind_s=behind_s,
        behind_byte_s=behind_byte_s,
    )
    tried = [
        replace(found, latency_s=latency_s, begin_s=max(0.0, send_s - found.order_s - latency_s))
        for latency_s in (0.0, *LATENCIES_S)
    ]
    return min(tried, key=lambda costs: misfit(costs, cells, cores))


def misfit(costs: Costs, cells: Sequence[Cell], cores: int) -> float:
    """Sum of squares of the relative errors of whole steps."""
    total = 0.0
    for cell in cells:
        simulation = Simulation(costs, Site(cell.workers, cell.workers, cores), cell.payload)
        for _ in range(_SIMULATED_STEPS):
            step_s = simulation.step([0.0] * cell.workers)
        total += (step_s / cell.step.total_s - 1.0) ** 2
    return total


def solve(columns: Sequence[Floats], values: Floats) -> list[float]:
    """Coefficients, none of them negative, with the least sum of squared relative errors. All subsets are tried."""
    matrix, target = np.stack(columns, axis=1) / values[:, None], np.ones_like(values)
    best, least = [0.0] * len(columns), float("inf")
    for count in range(1, len(columns) + 1):
        for chosen in itertools.combinations(range(len(columns)), count):
            found, *_ = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)
            error = float(np.square(matrix[:, chosen] @ found - target).sum())
            if error < least and bool((found >= 0).all()):
                best, least = [0.0] * len(columns), error
                for column, value in zip(chosen, found, strict=True):
                    best[column] = float(value)
    return best
