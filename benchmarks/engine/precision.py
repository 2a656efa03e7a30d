"""Accuracy and time of the precision policies: the outer gradient of each estimator on conv4.

The network is trained for some outer steps. Then the outer gradient of a few tasks on drawn characters is computed in
float64 and under each policy, for several draws of the tasks. The draw with the median error is shown: a ReLU whose
input is nearly zero may fall on the other side in float32, too, and would then dominate the error.

Errors are relative to float64: of the whole gradient, and of the worst tensor. Tensors whose true gradient is nearly
zero (a convolution's bias before batch norm) have no relative error: their error, all together, is given as a share of
the whole gradient, but not after Adam, which divides their rounding errors by themselves. The cosine is that of the
angle between the gradient and the true one. Times are medians of interleaved runs.

    python -m benchmarks.engine.precision
    python -m benchmarks.engine.precision --rows prototype "first order, 1 step" --strategy compiled --out runs/bench
    python -m benchmarks.engine.precision --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.engine.common.agreement import compare
from benchmarks.engine.common.contenders import STRATEGIES
from benchmarks.engine.common.problems import images, problem
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.machine import check_device, synchronised
from benchmarks.report import Report
from benchmarks.scripts import options, run_main, settings
from benchmarks.timing import interleaved, repeats_for, timed
from distmeta.config import EngineConfig, RunConfig
from distmeta.config.models import Conv4Config
from distmeta.core.tensors import global_norm
from distmeta.core.types import Params
from distmeta.engine.precision import allowed_policies
from distmeta.methods import fomaml, maml, protonet, reptile

# Method, training shots, whether its inner steps are Adam's.
ROWS = {
    "exact second order, 1 step": (maml(), 1, False),
    "exact second order, 5 steps": (maml(lr=0.1, steps=5), 1, False),
    "first order, 1 step": (fomaml(), 1, False),
    "displacement, 5 Adam steps": (reptile(), 10, True),
    "prototype": (protonet(), 1, False),
}
WAY, QUERIES, OUTER_LR, ROUNDS = 5, 5, 1e-3, 5
TITLES = ("estimator", "products", "error", "worst tensor", "silent tensors", "cosine", "time / float32")


def trained(config: RunConfig, steps: int) -> Workload:
    """Train for some outer steps in float32, each on its own tasks."""
    workload = make_workload(config)
    engine = workload.engine(EngineConfig(strategy="vmap"))
    optimizer = torch.optim.Adam(workload.meta.values(), lr=OUTER_LR)
    for step in range(steps):
        gradient = replace(workload.at_step(step), meta=workload.meta).gradient(engine)
        for name, tensor in workload.meta.items():
            tensor.grad = gradient[name] / workload.num_tasks
        optimizer.step()
    return workload


def errors(result: Params, reference: Params, *, adam: bool) -> dict[str, Any]:
    """Errors of a gradient relative to the reference, and the cosine of the angle between them."""
    product = sum(float((result[name].double() * tensor).sum()) for name, tensor in reference.items())
    cosine = product / (global_norm(result) * global_norm(reference))
    return {**asdict(compare(result, reference, with_silent=not adam)), "cosine": cosine}


def measure(row: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Errors and seconds of one estimator under each policy that the device has."""
    algorithm, shots, adam = ROWS[row]
    swept = problem("precision", row, images(WAY, shots, QUERIES), Conv4Config(), algorithm, args.tasks)
    workload = trained(swept.resized(device=args.device).config, args.steps)
    draws = [workload.at_step(args.steps + draw) for draw in range(args.draws)]

    def gradient_under(strategy: str, policy: str) -> Callable[[Workload], Params]:
        config = EngineConfig.model_validate({"strategy": strategy, "matmul": policy})
        engine = workload.engine(config)
        return lambda draw: draw.gradient(engine)

    reference = gradient_under("loop", "float32")
    references = [reference(draw.as_type(torch.float64)) for draw in draws]
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], None]] = {}
    for policy in allowed_policies(args.device):
        gradient = gradient_under(args.strategy, policy)
        by_error = sorted(
            (errors(gradient(draw), true, adam=adam) for draw, true in zip(draws, references, strict=True)),
            key=lambda result: result["error"],
        )
        results[policy] = {**by_error[len(by_error) // 2], "errors": [result["error"] for result in by_error]}
        runs[policy] = synchronised(partial(gradient, draws[0]), args.device)
    seconds = interleaved(runs, ROUNDS, {policy: repeats_for(timed(run)) for policy, run in runs.items()})
    return {policy: {**result, "seconds": median(seconds[policy])} for policy, result in results.items()}


def lines(row: str, results: dict[str, dict[str, Any]]) -> list[str]:
    float32_s = results["float32"]["seconds"]
    return [
        f"| {row} | {policy} | {result['error']:.1e} | {result['worst_error']:.1e} ({result['worst']}) | "
        f"{'-' if result['silent_error'] is None else format(result['silent_error'], '.1e')} | "
        f"{result['cosine']:.6f} | {result['seconds'] / float32_s:.2f} |"
        for policy, result in results.items()
    ]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--strategy", choices=STRATEGIES, default="vmap")
    parser.add_argument("--steps", type=int, default=60, help="outer steps of training before the measurement")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5, help="draws of the tasks")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    check_device(args.device, "--device")
    torch.set_num_threads(args.threads)
    report = Report("precision", args.out, args.device)
    print(f"{args.threads} threads, {args.strategy}")
    print(f"\n| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    rows = {}
    for row in args.rows:
        rows[row] = measure(row, args)
        print("\n".join(lines(row, rows[row])), flush=True)
    report.write(settings=settings(args), rows=rows)


if __name__ == "__main__":
    run_main(main)
