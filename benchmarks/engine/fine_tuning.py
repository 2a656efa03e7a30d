"""An epoch of fine-tuning by the engine beside a loop in plain torch: the same network, mini-batches and optimizer.

    python -m benchmarks.engine.fine_tuning
    python -m benchmarks.engine.fine_tuning --optimizer sgd --batch 16 --threads 1

Both start from the same values, and the values after the epochs are compared before anything is timed. The engine walks
along the inner steps without recording, as at evaluation.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.report import Goal, Report
from benchmarks.scripts import options, run_main, settings
from benchmarks.timing import interleaved
from distmeta.config import ConvNetConfig, GradientConfig, Phase
from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models import build_backbone
from distmeta.models.base import HEAD

CLASSES, SIDE, EXAMPLES = 10, 28, 600
FILTERS = (64, 64, 64)
LEAST = 0.95
"""Speed as a share of the plain loop's."""
TOLERANCE = 1e-3
"""Relative difference of the values after an epoch, in float32."""


def plain_network() -> nn.Module:
    """The network `convnet` in torch's own layers, with the same names."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, width) in enumerate(zip((1, *FILTERS), FILTERS, strict=False), 1):
        layers: list[nn.Module] = [nn.Conv2d(before, width, 3, bias=False), nn.InstanceNorm2d(width, affine=True)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)] if number < len(FILTERS) else [nn.ReLU()]
        blocks[f"block{number}"] = nn.Sequential(*layers)
    blocks["flatten"], blocks["head"] = nn.Flatten(), nn.Linear(FILTERS[-1] * 9, CLASSES)
    return nn.Sequential(blocks)


def plain_epochs(task: Episode, meta: Params, rows: list[list[int]], optimizer: str) -> Params:
    """Values after the steps of a loop as one writes it."""
    net = plain_network()
    net.load_state_dict(meta)
    steps: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    if optimizer == "sgd":
        steps = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
    inputs, targets = task.support["inputs"][0], task.support["targets"][0]
    for chosen in rows:
        index = torch.tensor(chosen)
        steps.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(inputs[index]), targets[index]))
        steps.step()
    return {name: tensor.detach() for name, tensor in net.named_parameters()}


def runs(args: argparse.Namespace) -> dict[str, Callable[[], Params]]:
    """The engine and the plain loop, each a function that gives the values after the epochs."""
    backbone = build_backbone(ConvNetConfig(filters=FILTERS), (1, SIDE, SIDE), {HEAD: CLASSES}, torch.float32)
    settings = {"lr": 1e-3, "optimizer": "adam"} if args.optimizer == "adam" else {"lr": 1e-2, "momentum": 0.9}
    steps = args.epochs * EXAMPLES // args.batch
    phase = Phase.model_validate({"steps": steps, "batch": args.batch, "shuffle": True, **settings})
    learner = GradientLearner(GradientConfig(phases=(phase,)), backbone, "cross_entropy")
    rng = torch.Generator().manual_seed(0)
    inputs = torch.rand(1, EXAMPLES, 1, SIDE, SIDE, generator=rng)
    task = Episode({"support": Batch(inputs, torch.randint(0, CLASSES, (1, EXAMPLES), generator=rng))})
    meta, ops = learner.init(0), one_by_one(learner)
    rows = [list(stage.rows or ()) for stage in learner.stages({"support": EXAMPLES})]
    return {
        "engine": lambda: {name: tensor[0] for name, tensor in ops.adapt(meta, task).fast.moved.items()},
        "plain loop": lambda: plain_epochs(task, meta, rows, args.optimizer),
    }


def difference(left: Params, right: Params) -> float:
    """Relative difference over all entries."""
    squares = [((left[name] - right[name]).square().sum(), right[name].square().sum()) for name in right]
    return float((sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report, contenders = Report("fine_tuning", args.out), runs(args)
    values = {name: run() for name, run in contenders.items()}
    found = difference(values["engine"], values["plain loop"])
    print(Goal("difference of the values", found, TOLERANCE))
    seconds = interleaved(contenders, args.rounds)
    ratio = median(b / a for a, b in zip(seconds["engine"], seconds["plain loop"], strict=True))
    print(f"seconds of {args.epochs} epochs: " + ", ".join(f"{name} {median(s):.3f}" for name, s in seconds.items()))
    print(Goal("speed, as a share of the plain loop's", ratio, LEAST, at_least=True))
    report.write(settings=settings(args), seconds=seconds, ratio=ratio, difference=found)


if __name__ == "__main__":
    run_main(main)
