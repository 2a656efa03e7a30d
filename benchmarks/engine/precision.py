"""What a precision policy costs in accuracy and saves in time: the outer signal of each estimator on conv4.

The network is trained for some outer steps first. Then the outer signal of a few tasks on drawn characters is computed
in float64 and under each policy, for several draws of the tasks; the draw of the median error is shown, because a ReLU
whose input is nearly zero may fall on the other side in float32, too, and that alone then makes the error.

Errors are relative to float64: of the whole signal, and of the worst tensor. Tensors whose true signal is next to
nothing (a convolution's bias before batch norm) have no relative error: what they got, all together, is given as a
share of the whole signal, but not after Adam, which divides their rounding by itself. The cosine is that of the angle
between the signal and the true one. Times are medians of interleaved runs.

    python benchmarks/engine/precision.py
    python benchmarks/engine/precision.py --rows prototype "first order" --strategy compiled --json precision.json
    python benchmarks/engine/precision.py --device cuda
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.agreement import compare
from benchmarks.engine.problems import images, problem
from benchmarks.machine import busy_share, check_device, hardware, hardware_line, synchronise
from benchmarks.timing import interleaved, median, repeats_for, timed
from distmeta.config import EngineConfig, RunConfig
from distmeta.config.models import Conv4Config
from distmeta.core.tensors import global_norm
from distmeta.core.types import Episode, Params
from distmeta.engine.engine import Engine
from distmeta.engine.precision import Matmul, allowed_policies
from distmeta.methods import fomaml, maml, protonet, reptile
from distmeta.methods.build import build_algorithm
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.tasks import build_source

# Method, training shots, whether its steps are Adam's.
ROWS = {
    "exact second order, 1 step": (maml(), 1, False),
    "exact second order, 5 steps": (maml(lr=0.1, steps=5), 1, False),
    "first order, 1 step": (fomaml(), 1, False),
    "displacement, 5 Adam steps": (reptile(), 10, True),
    "prototype": (protonet(), 1, False),
}
WAY, QUERIES, OUTER_LR = 5, 5, 1e-3
TITLES = ("estimator", "products", "error", "worst tensor", "silent tensors", "cosine", "time / float32")


@dataclass(frozen=True)
class Subject:
    """A method at a point of its training, and draws of tasks to compute its outer signal on."""

    learner: Learner
    estimator: Estimator
    meta: Params
    draws: list[Episode]

    def signal(self, policy: Matmul, strategy: str) -> Callable[[Episode], Params]:
        """What computes the outer signal under a policy."""
        settings = EngineConfig.model_validate({"strategy": strategy, "matmul": policy})
        engine = Engine(self.learner, self.estimator, settings)
        return lambda episodes: engine.update(self.meta, episodes).grad

    def reference(self, episodes: Episode) -> Params:
        """The outer signal in float64."""
        meta = {name: tensor.double() for name, tensor in self.meta.items()}
        episodes = episodes.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        return Engine(self.learner, self.estimator, EngineConfig(strategy="loop")).update(meta, episodes).grad


def subject(config: RunConfig, steps: int, draws: int, device: str) -> Subject:
    """Train for some outer steps, in float32, each on tasks of its own."""
    source = build_source(config.tasks, config.seed, torch.float32)
    algorithm = build_algorithm(config, source.signature)
    engine = Engine(algorithm.learner, algorithm.estimator, EngineConfig(strategy="vmap"))
    meta = {name: tensor.to(device) for name, tensor in algorithm.learner.init(config.seed).items()}
    optimizer = torch.optim.Adam(meta.values(), lr=OUTER_LR)

    def tasks(step: int) -> Episode:
        episodes = source.episodes(source.specs("train", step, config.train.tasks_per_step))
        return episodes.map(lambda tensor: tensor.to(device))

    for step in range(steps):
        update = engine.update(meta, tasks(step))
        for name, tensor in meta.items():
            tensor.grad = update.grad[name] / update.weight
        optimizer.step()
    episodes = [tasks(steps + draw) for draw in range(draws)]
    return Subject(algorithm.learner, algorithm.estimator, meta, episodes)


def errors(found: Params, reference: Params, *, adam: bool) -> dict[str, Any]:
    """How far a signal is from the true one."""
    inner = sum(float((found[name].double() * tensor).sum()) for name, tensor in reference.items())
    cosine = inner / (global_norm(found) * global_norm(reference))
    return {**asdict(compare(found, reference, with_silent=not adam)), "cosine": cosine}


def measure(row: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Errors and seconds of one estimator under each policy that the device has."""
    method, shots, adam = ROWS[row]
    config = problem("precision", row, images(WAY, shots, QUERIES), Conv4Config(), method, chosen.tasks).config
    found = subject(config, chosen.steps, chosen.draws, chosen.device)
    references = [found.reference(episodes) for episodes in found.draws]
    runs = {policy: found.signal(policy, chosen.strategy) for policy in allowed_policies(chosen.device)}
    shown = {}
    for policy, run in runs.items():
        pairs = zip(found.draws, references, strict=True)
        ordered = sorted((errors(run(draw), true, adam=adam) for draw, true in pairs), key=lambda one: one["error"])
        shown[policy] = {**ordered[len(ordered) // 2], "errors": [one["error"] for one in ordered]}
    complete = {policy: partial(finished, run, found.draws[0], chosen.device) for policy, run in runs.items()}
    seconds = interleaved(complete, 5, {policy: repeats_for(timed(run)) for policy, run in complete.items()})
    return {policy: {**one, "seconds": median(seconds[policy])} for policy, one in shown.items()}


def finished(run: Callable[[Episode], Params], episodes: Episode, device: str) -> None:
    run(episodes)
    synchronise(device)


def lines(row: str, found: dict[str, Any]) -> list[str]:
    """The estimator's lines of the table."""
    base = found["float32"]["seconds"]
    return [
        f"| {row} | {policy} | {one['error']:.1e} | {one['worst_error']:.1e} ({one['worst']}) | "
        f"{'-' if one['silent_error'] is None else format(one['silent_error'], '.1e')} | {one['cosine']:.6f} | "
        f"{one['seconds'] / base:.2f} |"
        for policy, one in found.items()
    ]


def main() -> None:
    """Measure each estimator and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    options.add_argument("--device", default="cpu")
    options.add_argument("--strategy", choices=("loop", "vmap", "compiled", "compiled_vmap"), default="vmap")
    options.add_argument("--steps", type=int, default=60, help="outer steps of training before")
    options.add_argument("--tasks", type=int, default=4)
    options.add_argument("--draws", type=int, default=5, help="draws of the tasks")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--json", type=Path, default=None)
    chosen = options.parse_args()
    check_device(chosen.device, "--device")
    torch.set_num_threads(chosen.threads)
    machine, busy = hardware(chosen.device), busy_share()
    print(f"{hardware_line(machine)}; {chosen.threads} threads, others busy {busy:.0%}; {chosen.strategy}")
    print(f"\n| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    rows = {}
    for row in chosen.rows:
        rows[row] = measure(row, chosen)
        print("\n".join(lines(row, rows[row])), flush=True)
    if chosen.json is not None:
        settings = {name: value for name, value in vars(chosen).items() if name not in ("json", "rows")}
        chosen.json.write_text(json.dumps({"hardware": machine, "settings": settings, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
