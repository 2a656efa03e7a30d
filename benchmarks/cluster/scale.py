"""`distmeta bench scale`: step times of many workers, by a model that is calibrated and checked on this machine.

    calibrate   instant steps of few workers (real actors with ready-made updates) -> costs
    check       steps of real workers that sleep as if they computed, not used for the costs, beside the model's steps
    predict     the model alone, up to a thousand workers and more on many machines, without leaders and with them

A sleep takes no core, so 128 workers overlap on any machine; actors load no torch. In the prediction computing takes a
core of the worker's machine, and all bytes between machines pass the links of those that receive them, or that of the
driver's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from statistics import mean, median

import psutil

from benchmarks.cluster.common import overhead
from benchmarks.cluster.common.overhead import MB, WARM_UP_STEPS, OverheadSteps, StepTimes
from benchmarks.cluster.common.programs import make_params, num_bytes
from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.fit import Sample
from benchmarks.cluster.model.led import LedSimulation
from benchmarks.cluster.model.simulation import Simulation
from benchmarks.pictures import Curves, grouped
from benchmarks.report import Goal, progress
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix, uniform
from distmeta.runtime.policy.leaders import num_leaders
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.tracking.environment import num_cores

GOAL_WORKERS, GOAL_ERROR = 32, 0.2
"""At this number of workers the model's step time has at most this relative error."""
_CURVE_STEPS = 3


@dataclass(frozen=True)
class Plan:
    """What to measure and to predict: the options of the command; sizes of updates in MB.

    Steps are checked without leaders, and under each of the numbers of `leaders`.
    """

    calibrated: tuple[int, ...]
    calibrated_mb: tuple[float, ...]
    checked: tuple[int, ...]
    checked_mb: tuple[float, ...]
    max_workers: int
    payloads_mb: tuple[float, ...]
    shards_per_worker: int
    compute_ms: float
    spread: float
    steps: int
    per_machine: int
    link_gbit: float
    leaders: tuple[int, ...] = ()

    def sleeps_s(self, workers: int, step: int) -> list[float]:
        """Seconds that each shard of a step computes; the same for the model and for the real workers."""
        shards = range(workers * self.shards_per_worker)
        draws = uniform([mix(step, shard) for shard in shards], "seconds of a shard", 1)[:, 0]
        return [1e-3 * self.compute_ms * (1.0 + self.spread * (2.0 * draw - 1.0)) for draw in draws.tolist()]

    def median_s(self, workers: int, step_s: Callable[[list[float]], float]) -> float:
        """Median seconds of the steps with these sleeps."""
        seconds = [step_s(self.sleeps_s(workers, step)) for step in range(WARM_UP_STEPS + self.steps)]
        return median(seconds[WARM_UP_STEPS:])


@dataclass(frozen=True)
class Check:
    """A step that was predicted and measured; `error` is that of the prediction, relative."""

    workers: int
    payload_mb: float
    predicted_s: float
    measured_s: float
    leaders: int = 0

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True)
class Point:
    """A predicted step of the curve; `efficiency` is the share of the workers' time in which they compute."""

    workers: int
    payload_mb: float
    step_s: float
    shards_per_s: float
    efficiency: float
    leaders: int = 0

    @property
    def label(self) -> str:
        return f"{self.payload_mb:g} MB{', leaders' if self.leaders else ''}"


def required_store_bytes(plan: Plan) -> int:
    """Size of the object store for all steps.

    Raises:
        UserError: There is not enough memory for them.
    """
    checked = max(plan.checked), max(plan.checked_mb) * MB, plan.shards_per_worker
    largest = [(max(plan.calibrated), max(plan.calibrated_mb) * MB, 1), checked]
    needed, usable = max(overhead.needed_bytes(*sizes) for sizes in largest), overhead.usable_bytes()
    if needed > usable:
        what = f"{checked[0]} workers need {needed / MB:,.0f} MB of memory, {usable / MB:,.0f} MB are available"
        raise UserError(what, where="--check", allowed="fewer workers, or smaller payloads")
    return max(overhead.store_bytes(workers * shards, payload) for workers, payload, shards in largest)


Case = tuple[int, int, float]
"""Workers, leaders, MB."""


def measure(plan: Plan, object_store_bytes: int) -> tuple[list[Sample], dict[Case, float]]:
    """Returns the samples to calibrate with, and the median seconds of the steps to check against."""
    samples: list[Sample] = []
    measured_s: dict[Case, float] = {}
    for leaders in (0, *plan.leaders):
        calibrated = () if leaders else plan.calibrated
        counts = sorted({*calibrated, *(count for count in plan.checked if count >= leaders)})
        if not counts:
            continue
        with overhead.ray_workers(counts[-1], object_store_bytes, light=True, leaders=leaders) as workers_of:
            for count in counts:
                with workers_of(count) as executor:
                    for size in plan.calibrated_mb if count in calibrated else ():
                        samples.append(_sample(OverheadSteps(executor, size), count, plan.steps))
                    for size in plan.checked_mb if count in plan.checked else ():
                        step_s = OverheadSteps(executor, size).step_s
                        measured_s[count, leaders, size] = plan.median_s(count, step_s)
                        led = f" under {leaders} leaders" if leaders else ""
                        progress(f"{count} workers{led}, {size:g} MB: {measured_s[count, leaders, size]:.3f} s a step")
    return samples, measured_s


def _sample(overhead_steps: OverheadSteps, workers: int, steps: int) -> Sample:
    sleeps_s = [0.0] * workers
    for _ in range(WARM_UP_STEPS):
        overhead_steps.step(sleeps_s)
    before = _daemons_s()
    times = StepTimes.medians([overhead_steps.step(sleeps_s) for _ in range(steps)])
    return Sample(workers, float(overhead_steps.payload), times, (_daemons_s() - before) / steps)


def _daemons_s() -> float:
    """Processor seconds so far of the processes that Ray has started beside its workers."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() in ("raylet", "gcs_server"):
                times = process.cpu_times()
                total += float(times.user + times.system)
    return total


def _simulation(costs: Costs, machines: Machines, payload: float) -> Simulation:
    return (LedSimulation if machines.leaders else Simulation)(costs, machines, payload)


def predict_measured(costs: Costs, plan: Plan, measured_s: Mapping[Case, float]) -> list[Check]:
    checks = []
    for (workers, leaders, size), seconds in measured_s.items():
        payload = float(num_bytes(make_params(size * MB)))
        simulation = _simulation(costs, Machines(workers, workers, num_cores(), leaders=leaders), payload)
        checks.append(Check(workers, size, plan.median_s(workers, simulation.step), seconds, leaders))
    return checks


def predict(costs: Costs, plan: Plan) -> Iterator[Point]:
    """The curve: 1, 2, 4, ... workers up to the largest number; with leaders from where a run has them by itself."""
    powers = [1 << power for power in range(plan.max_workers.bit_length()) if 1 << power < plan.max_workers]
    link_bytes_s = plan.link_gbit * 1e9 / 8
    counts = (*powers, plan.max_workers)
    for size, led in itertools.product(plan.payloads_mb, (False, True)):
        for workers in counts:
            machines = Machines(workers, plan.per_machine, plan.per_machine + 1, link_bytes_s, True)
            large = size * MB >= LARGE_UPDATE_BYTES
            leaders = num_leaders("auto", workers, machines.count, large=large) if led else 0
            if led and not leaders:
                continue
            machines = replace(machines, leaders=leaders)
            simulation = _simulation(costs, machines, size * MB)
            sleeps = [plan.sleeps_s(workers, step) for step in range(_CURVE_STEPS)]
            seconds = [simulation.step(sleeps_s) for sleeps_s in sleeps]
            # In the first step the scheduler does not yet know the workers' throughput.
            step_s, compute_s = mean(seconds[1:]), mean(sum(sleeps_s) for sleeps_s in sleeps[1:])
            throughput, efficiency = workers * plan.shards_per_worker / step_s, compute_s / (workers * step_s)
            yield Point(workers, size, step_s, throughput, efficiency, leaders)


def goal_of(checks: Sequence[Check]) -> Goal | None:
    """The largest error at the goal's number of workers; None where that was not measured."""
    errors = [abs(check.error) for check in checks if check.workers == GOAL_WORKERS]
    return Goal(f"largest relative error at {GOAL_WORKERS} workers", max(errors), GOAL_ERROR) if errors else None


def to_json(
    plan: Plan, samples: Sequence[Sample], costs: Costs, checks: Sequence[Check], points: Sequence[Point]
) -> dict[str, object]:
    goal = goal_of(checks)
    return {
        "settings": asdict(plan),
        "calibration": [asdict(sample) for sample in samples],
        "costs": asdict(costs),
        "checks": [{**asdict(check), "error": check.error} for check in checks],
        "goal": {"workers": GOAL_WORKERS, "error": GOAL_ERROR, "reached": None if goal is None else goal.reached},
        "curve": [asdict(point) for point in points],
    }


def cost_table(costs: Costs) -> list[dict[str, object]]:
    """The costs, in milliseconds and milliseconds per MB."""
    per = {name: MB if name.endswith("_byte_s") else 1.0 for name in asdict(costs)}
    ms = {name: f"{1e3 * per[name] * seconds:.3g}" for name, seconds in asdict(costs).items()}
    names = dict.fromkeys(name.removesuffix("_s").removesuffix("_byte") for name in ms)
    return [{"cost": name, "ms": ms.get(f"{name}_s"), "ms / MB": ms.get(f"{name}_byte_s")} for name in names]


def check_table(checks: Sequence[Check]) -> list[dict[str, object]]:
    return [
        {
            "workers": check.workers,
            "leaders": check.leaders,
            "MB": f"{check.payload_mb:g}",
            "predicted s": f"{check.predicted_s:.3f}",
            "measured s": f"{check.measured_s:.3f}",
            "error": f"{check.error:+.1%}",
        }
        for check in checks
    ]


def curve_table(points: Sequence[Point]) -> list[dict[str, object]]:
    """The curve: a line for each number of workers, columns for each payload, without and with leaders."""
    lines: dict[int, dict[str, object]] = {point.workers: {"workers": point.workers} for point in points}
    for point in points:
        lines[point.workers][f"{point.label}: efficiency"] = f"{point.efficiency:.0%}"
    for point in points:
        lines[point.workers][f"{point.label}: shards/s"] = f"{point.shards_per_s:,.0f}"
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    return [{name: line.get(name) for name in columns} for line in lines.values()]


def curves(points: Sequence[Point], checks: Sequence[Check]) -> tuple[Curves, Curves]:
    """By payload: points of (workers, efficiency in percent), and of (workers, predicted seconds, measured seconds)."""
    return (
        grouped((point.label, (point.workers, 100 * point.efficiency)) for point in points),
        grouped(
            (
                f"{check.payload_mb:g} MB{f', {check.leaders} leaders' if check.leaders else ''}",
                (check.workers, check.predicted_s, check.measured_s),
            )
            for check in checks
        ),
    )
