"""`distmeta bench scale`: how far synchronous training goes, by a model that is calibrated and checked here.

    calibrate   instant steps of 2 and 8 workers (real actors, `payload`) -> costs (`fit`)
    check       real steps of 2 to 32 workers that sleep as if they computed, which the costs have not seen, beside the
                model's steps with the same sleeps
    extrapolate the model alone (`benchmarks.cluster.simulate`), up to a thousand workers on many machines

Sleeping takes no core, so 32 workers overlap on any machine. In the extrapolation computing takes a core of the
worker's machine, and all bytes between machines pass the link of the driver's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import psutil

from benchmarks.cluster.costs import Costs, Site
from benchmarks.cluster.fit import Cell, fit_costs
from benchmarks.cluster.payload import MB, OUTER, cluster, make_params, make_shards, medians, run_step
from benchmarks.cluster.server import free_bytes, needed_bytes, store_bytes
from benchmarks.cluster.simulate import Simulation
from benchmarks.timing import median
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix, uniform
from distmeta.runtime.executor import Executor
from distmeta.server import ParameterServer

Curve = tuple[list[int], list[float]]
_LOG = logging.getLogger(__name__)

GOAL_WORKERS, GOAL_ERROR = 32, 0.2
"""At so many workers the model's step is at most this far off."""
_WARM_STEPS = 3
_CURVE_STEPS = 3
_SPARE = 0.9


@dataclass(frozen=True)
class Plan:
    """What to measure and to predict.

    Attributes:
        calibrated: Workers of the instant steps.
        checked: Workers of the steps that the model is checked on.
        max_workers: End of the curve.
        payloads_mb: Sizes of an update in the curve.
        shards_per_worker: Shards of a step, for each worker.
        compute_ms: Mean time that a shard computes.
        spread: Shards compute evenly between (1 - spread) and (1 + spread) times that.
        steps: Timed steps of a cell.
        per_machine: Workers on a machine of the curve, which has one core more than these.
        link_gbit: Link of each machine of the curve, in 1e9 bits a second.
        calibrated_mb, checked_mb: Sizes of an update in the steps that are measured.
    """

    calibrated: tuple[int, ...] = (2, 8)
    checked: tuple[int, ...] = (2, 4, 8, 16, 32)
    max_workers: int = 1000
    payloads_mb: tuple[float, ...] = (0.5, 20.0, 200.0)
    shards_per_worker: int = 2
    compute_ms: float = 200.0
    spread: float = 0.1
    steps: int = 10
    per_machine: int = 8
    link_gbit: float = 25.0
    calibrated_mb: tuple[float, ...] = (0.5, 5.0, 40.0)
    checked_mb: tuple[float, ...] = (0.5, 20.0)


@dataclass(frozen=True)
class Check:
    """A step that was predicted and measured."""

    workers: int
    payload_mb: float
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative; positive if the model is too slow."""
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True)
class Point:
    """A step of the curve.

    Attributes:
        step_s: Its predicted seconds.
        shards_per_s: Throughput.
        efficiency: Share of the workers' time in which they compute.
    """

    workers: int
    payload_mb: float
    step_s: float
    shards_per_s: float
    efficiency: float


def sleeps(plan: Plan, workers: int, step: int) -> list[float]:
    """Seconds that each shard of a step computes; the same for the model and for the real workers."""
    shards = range(workers * plan.shards_per_worker)
    draws = uniform([mix(step, shard) for shard in shards], "seconds of a shard", 1)[:, 0]
    return [1e-3 * plan.compute_ms * (1.0 + plan.spread * (2.0 * draw - 1.0)) for draw in draws.tolist()]


def check_memory(plan: Plan) -> int:
    """See that there is memory for all cells. Returns the size of the object store.

    Raises:
        UserError: There is not.
    """
    checked = max(plan.checked), max(plan.checked_mb) * MB, plan.shards_per_worker
    asked = [(max(plan.calibrated), max(plan.calibrated_mb) * MB, 1), checked]
    needed, free = max(needed_bytes(*one) for one in asked), _SPARE * free_bytes()
    if needed > free:
        what = f"{checked[0]} workers need {needed / MB:,.0f} MB of memory, {free / MB:,.0f} MB are to be had"
        raise UserError(what, where="--check", allowed="fewer workers, or smaller payloads")
    return max(store_bytes(workers * shards, payload) for workers, payload, shards in asked)


def measure(plan: Plan, object_store_bytes: int) -> tuple[list[Cell], list[tuple[int, float, float]]]:
    """Measure all cells with one crew for each number of workers.

    Returns:
        The cells to calibrate with; workers, payload in MB and median seconds of the steps to check against.
    """
    counts = sorted({*plan.calibrated, *plan.checked})
    cells: list[Cell] = []
    checks: list[tuple[int, float, float]] = []
    with cluster(counts[-1], object_store_bytes) as crew:
        for count in counts:
            _LOG.info("starting %d workers", count)
            executor = crew(count)
            try:
                if count in plan.calibrated:
                    cells += [_calibrate(executor, count, size, plan.steps) for size in plan.calibrated_mb]
                if count in plan.checked:
                    checks += [(count, size, _measured_s(executor, count, size, plan)) for size in plan.checked_mb]
            finally:
                executor.close()
    return cells, checks


def _calibrate(executor: Executor, workers: int, payload_mb: float, steps: int) -> Cell:
    """Time instant steps."""
    params = make_params(int(payload_mb * MB))
    server, shards = ParameterServer(params, OUTER, total_steps=1), make_shards([0.0] * workers)
    for _ in range(_WARM_STEPS):
        run_step(server, executor, shards)
    before = _daemons_s()
    found = [run_step(server, executor, shards) for _ in range(steps)]
    payload = float(sum(tensor.nbytes for tensor in params.values()))
    return Cell(workers, payload, medians(found), (_daemons_s() - before) / steps)


def _measured_s(executor: Executor, workers: int, payload_mb: float, plan: Plan) -> float:
    """Median seconds of steps whose workers sleep."""
    server = ParameterServer(make_params(int(payload_mb * MB)), OUTER, total_steps=1)
    found = [
        run_step(server, executor, make_shards(sleeps(plan, workers, step))).total_s
        for step in range(_WARM_STEPS + plan.steps)
    ]
    return median(found[_WARM_STEPS:])


def _daemons_s() -> float:
    """Processor seconds so far of the processes that Ray has started beside its workers."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() in ("raylet", "gcs_server"):
                times = process.cpu_times()
                total += float(times.user + times.system)
        except psutil.NoSuchProcess:
            continue
    return total


def cores_here() -> int:
    """Cores of this machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def calibrate(cells: Sequence[Cell]) -> Costs:
    """The costs on this machine."""
    return fit_costs(cells, cores_here())


def check(costs: Costs, plan: Plan, measured: Sequence[tuple[int, float, float]]) -> list[Check]:
    """Predict the steps that were measured."""
    found = []
    for workers, size, seconds in measured:
        payload = float(sum(tensor.nbytes for tensor in make_params(int(size * MB)).values()))
        simulation = Simulation(costs, Site(workers, workers, cores_here()), payload)
        steps = [simulation.step(sleeps(plan, workers, step)) for step in range(_WARM_STEPS + plan.steps)]
        found.append(Check(workers, size, median(steps[_WARM_STEPS:]), seconds))
    return found


def predict(costs: Costs, plan: Plan) -> Iterator[Point]:
    """The curve: 1, 2, 4, ... workers up to the most."""
    powers = [1 << power for power in range(plan.max_workers.bit_length()) if 1 << power < plan.max_workers]
    for size in plan.payloads_mb:
        for workers in (*powers, plan.max_workers):
            link = plan.link_gbit * 1e9 / 8
            site = Site(workers, plan.per_machine, plan.per_machine + 1, link, computing_takes_core=True)
            simulation, taken, computed = Simulation(costs, site, size * MB), [], []
            for step in range(_CURVE_STEPS):
                seconds = sleeps(plan, workers, step)
                taken.append(simulation.step(seconds))
                computed.append(sum(seconds))
            # The first step is without knowledge of the workers' paces.
            step_s, compute_s = sum(taken[1:]) / len(taken[1:]), sum(computed[1:]) / len(computed[1:])
            yield Point(
                workers, size, step_s, workers * plan.shards_per_worker / step_s, compute_s / (workers * step_s)
            )


def worst_error(checks: Sequence[Check]) -> float | None:
    """The largest error, either way, at the number of workers of the goal; None where that was not measured."""
    return max((abs(one.error) for one in checks if one.workers == GOAL_WORKERS), default=None)


def to_json(
    plan: Plan, cells: Sequence[Cell], costs: Costs, checks: Sequence[Check], points: Sequence[Point]
) -> dict[str, object]:
    """Everything, for programs."""
    worst = worst_error(checks)
    return {
        "settings": asdict(plan),
        "calibration": [asdict(cell) for cell in cells],
        "costs": asdict(costs),
        "checks": [{**asdict(one), "error": one.error} for one in checks],
        "goal": {
            "workers": GOAL_WORKERS,
            "error": GOAL_ERROR,
            "reached": None if worst is None else worst < GOAL_ERROR,
        },
        "curve": [asdict(point) for point in points],
    }


def cost_table(costs: Costs) -> list[dict[str, object]]:
    """The costs, for people: milliseconds, and milliseconds for each MB."""
    values = asdict(costs)
    names = list(dict.fromkeys(name.removesuffix("_s").removesuffix("_byte") for name in values))
    return [
        {
            "cost": name,
            "ms": f"{1e3 * values[name + '_s']:.3g}" if name + "_s" in values else None,
            "ms / MB": f"{1e3 * MB * values[name + '_byte_s']:.3g}" if name + "_byte_s" in values else None,
        }
        for name in names
    ]


def check_table(checks: Sequence[Check]) -> list[dict[str, object]]:
    """Predicted beside measured steps, for people."""
    return [
        {
            "workers": one.workers,
            "MB": f"{one.payload_mb:g}",
            "predicted s": f"{one.predicted_s:.3f}",
            "measured s": f"{one.measured_s:.3f}",
            "error": f"{100 * one.error:+.1f}%",
        }
        for one in checks
    ]


def curve_table(points: Sequence[Point]) -> list[dict[str, object]]:
    """The curve for people: a row for each number of workers, a column for each payload."""
    sizes = list(dict.fromkeys(point.payload_mb for point in points))
    by = {(point.workers, point.payload_mb): point for point in points}
    lines: list[dict[str, object]] = []
    for workers in dict.fromkeys(point.workers for point in points):
        line: dict[str, object] = {"workers": workers}
        line |= {f"{size:g} MB: efficiency": f"{100 * by[workers, size].efficiency:.0f}%" for size in sizes}
        lines.append(line | {f"{size:g} MB: shards/s": f"{by[workers, size].shards_per_s:,.0f}" for size in sizes})
    return lines


def curves(points: Sequence[Point], checks: Sequence[Check]) -> tuple[dict[str, Curve], dict[str, tuple[Curve, Curve]]]:
    """For the picture: payload -> workers and efficiency; payload -> the checks as predicted and as measured."""
    efficiency: dict[str, Curve] = {}
    for size in dict.fromkeys(point.payload_mb for point in points):
        mine = [point for point in points if point.payload_mb == size]
        efficiency[f"{size:g} MB"] = [one.workers for one in mine], [one.efficiency for one in mine]
    checked: dict[str, tuple[Curve, Curve]] = {}
    for size in dict.fromkeys(one.payload_mb for one in checks):
        found = [one for one in checks if one.payload_mb == size]
        workers = [one.workers for one in found]
        checked[f"{size:g} MB"] = (
            (workers, [one.predicted_s for one in found]),
            (workers, [one.measured_s for one in found]),
        )
    return efficiency, checked
