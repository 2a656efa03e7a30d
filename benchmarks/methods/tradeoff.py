"""Accuracy, compute and memory of meta-gradients on a problem whose exact meta-gradient is known, by inner steps.

Ridge regression, L(phi) = phi' H phi / 2 - c' phi with the proximal term l2sp / 2 * |phi - theta|^2, whose solution and
meta-gradient have a closed form:

    phi* = (H + l2sp I)^-1 (c + l2sp theta)        d L_query(phi*) / d theta = l2sp (H + l2sp I)^-1 grad L_query(phi*)

All contenders take K inner steps on it: gradient steps, or for Newton-CG K iterations for one Newton step. The error is
|signal - exact| / |exact|; Reptile's signal, which is no gradient of the query loss, is scaled to fit best. Memory is
the peak of the bytes of live tensors.

    python -m benchmarks.methods.tradeoff
    python -m benchmarks.methods.tradeoff --steps 1 10 100 --cg-steps 5 --out runs/quick

After the synthetic experiment of Rajeswaran et al. 2019 (arXiv 1909.04630).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.live_bytes import LiveBytes
from benchmarks.machine import MIB
from benchmarks.pictures import grouped, tradeoff_curves
from benchmarks.report import Report, print_wide, progress
from benchmarks.scripts import LONG_OUT, options, run_main, settings
from benchmarks.timing import timed
from distmeta.config import (
    BackpropConfig,
    DisplacementConfig,
    EngineConfig,
    GradientConfig,
    ImplicitConfig,
    MlpConfig,
    NewtonConfig,
    Phase,
)
from distmeta.config.estimators import EstimatorConfig
from distmeta.config.learners import LearnerConfig
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.engine.engine import Engine
from distmeta.methods.estimators import build_estimator
from distmeta.methods.learners import build_learner
from distmeta.methods.objectives import mse
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone
from distmeta.models.base import HEAD

LEAST_SCALE = 0.1
"""Scale of the last input, where that of the first is 1: the condition of H."""


@dataclass(frozen=True)
class Ridge:
    """A ridge regression for each of T tasks, with its exact meta-gradient.

    Attributes:
        episodes: N support and N query examples of D inputs.
        meta: Weights and bias of the linear map.
        exact: The meta-gradient, summed over the tasks.
        l2sp: Weight of the proximal term.
        lr: Rate of gradient steps: 1 / the largest curvature.
    """

    episodes: Episode
    meta: Params
    exact: Tensor
    l2sp: float
    lr: float


def make_ridge(inputs: int, examples: int, tasks: int, l2sp: float) -> Ridge:
    """Draw tasks around a common linear map."""
    rng = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=rng, dtype=torch.float64)
    scales = torch.logspace(0, torch.log10(torch.tensor(LEAST_SCALE)).item(), inputs, dtype=torch.float64)
    maps = draw(inputs, 1) + 0.5 * draw(tasks, inputs, 1)

    def batch() -> Batch:
        x = scales * draw(tasks, examples, inputs)
        return Batch(x, x @ maps + 0.1 * draw(tasks, examples, 1))

    episodes = Episode({SUPPORT: batch(), QUERY: batch()})
    theta = 0.1 * draw(inputs + 1, 1)
    (hessian, linear), (by_query, query_linear) = (_quadratic(episodes[role]) for role in (SUPPORT, QUERY))
    curved = hessian + l2sp * torch.eye(inputs + 1, dtype=torch.float64)
    solution = torch.linalg.solve(curved, linear + l2sp * theta)
    exact = l2sp * torch.linalg.solve(curved, by_query @ solution - query_linear)
    meta = {"head.weight": theta[:-1].T.contiguous(), "head.bias": theta[-1]}
    return Ridge(episodes, meta, exact.sum(0).flatten(), l2sp, 1 / float(torch.linalg.eigvalsh(curved).max()))


def _quadratic(batch: Batch) -> tuple[Tensor, Tensor]:
    """H [T, D + 1, D + 1] and c [T, D + 1, 1] of the mean squared error."""
    assert batch.targets is not None
    design = torch.cat((batch.inputs, torch.ones_like(batch.inputs[..., :1])), -1)
    scale = 2 / batch.targets.shape[1]
    return scale * design.mT @ design, scale * design.mT @ batch.targets


Parts = tuple[LearnerConfig, EstimatorConfig, str]
"""Learner, estimator, and `engine.memory`."""


def _gradient_steps(ridge: Ridge, steps: int) -> GradientConfig:
    return GradientConfig(phases=(Phase(lr=ridge.lr, steps=steps, l2sp=ridge.l2sp),))


def contenders(ridge: Ridge, cg_steps: int) -> dict[str, Callable[[int], Parts]]:
    """Methods by name, as functions of the number of inner steps."""
    descend = partial(_gradient_steps, ridge)
    implicit = ImplicitConfig(steps=cg_steps, tolerance=0.0)

    def newton(steps: int) -> NewtonConfig:
        return NewtonConfig(proximal=ridge.l2sp, steps=1, cg_steps=steps, cg_tolerance=0.0, lr=ridge.lr)

    return {
        "unrolled": lambda steps: (descend(steps), BackpropConfig(order=2), "unrolled"),
        "flat": lambda steps: (descend(steps), BackpropConfig(order=2), "flat"),
        "first order": lambda steps: (descend(steps), BackpropConfig(order=1), "auto"),
        "Reptile": lambda steps: (descend(steps), DisplacementConfig(), "auto"),
        "iMAML, gradient descent": lambda steps: (descend(steps), implicit, "auto"),
        "iMAML, Newton-CG": lambda steps: (newton(steps), implicit, "auto"),
    }


@dataclass(frozen=True)
class Point:
    """One contender at one number of inner steps; `error` is relative to the exact meta-gradient."""

    contender: str
    steps: int
    error: float
    seconds: float
    peak_mib: float


def engine_of(ridge: Ridge, parts: Parts) -> Engine:
    learner, estimator, memory = parts
    shape = tuple(ridge.episodes.support.inputs.shape[2:])
    backbone = build_backbone(MlpConfig(hidden=()), shape, {HEAD: 1}, torch.float64)
    config = EngineConfig.model_validate({"strategy": "vmap", "memory": memory, "dtype": "float64"})
    terms = (OuterTerm(QUERY, mse),)
    return Engine(build_learner(learner, backbone, "mse"), build_estimator(estimator), terms, config)


def error_of(signal: Params, ridge: Ridge, *, scaled: bool) -> float:
    """The relative error of a signal, after the best scaling of it if `scaled`."""
    flat = torch.cat([signal[name].flatten() for name in ridge.meta])
    if scaled:
        flat = flat * (flat @ ridge.exact / (flat @ flat))
    return float((flat - ridge.exact).norm() / ridge.exact.norm())


def measure(ridge: Ridge, name: str, make: Callable[[int], Parts], steps: int, rounds: int) -> Point:
    """A contender at one number of steps: the error and the peak of the first run, the median seconds of the others."""
    parts = make(steps)
    engine = engine_of(ridge, parts)
    with LiveBytes() as live:
        signal = engine.update(ridge.meta, ridge.episodes)[0].grad
    seconds = [timed(lambda: engine.update(ridge.meta, ridge.episodes)) for _ in range(rounds)]
    error = error_of(signal, ridge, scaled=parts[1].kind == "displacement")
    return Point(name, steps, error, statistics.median(seconds), live.peak / MIB)


def table(points: Sequence[Point]) -> list[dict[str, object]]:
    """A line for each contender, a column `error, ms, MiB` for each number of steps."""
    lines: dict[str, dict[str, object]] = {}
    for point in points:
        line = lines.setdefault(point.contender, {"contender": point.contender})
        line[f"{point.steps} steps"] = f"{point.error:.1e}, {1000 * point.seconds:.3g}, {point.peak_mib:.3g}"
    return list(lines.values())


def main() -> None:
    parser = options(__doc__, default_out=LONG_OUT)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 10, 30, 100, 300], help="inner steps")
    parser.add_argument("--cg-steps", type=int, default=20, help="iterations for an implicit gradient")
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--examples", type=int, default=200, help="support examples of a task, and queries")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--l2sp", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    report = Report("tradeoff", args.out)
    ridge = make_ridge(args.inputs, args.examples, args.tasks, args.l2sp)
    points: list[Point] = []
    for name, make in contenders(ridge, args.cg_steps).items():
        points += [measure(ridge, name, make, steps, args.rounds) for steps in sorted(args.steps)]
        progress(f"{name}: error {points[-1].error:.1e} at {points[-1].steps} steps")
    report.write(settings=settings(args), points=[asdict(point) for point in points])
    curves = grouped((point.contender, (point.steps, point.error, point.seconds, point.peak_mib)) for point in points)
    tradeoff_curves(args.out / "tradeoff.png", curves, report.title)
    print("error of the meta-gradient, milliseconds, peak MiB, by the number of inner steps")
    print_wide(table(points))


if __name__ == "__main__":
    run_main(main)
