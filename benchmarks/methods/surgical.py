"""Surgical fine-tuning: which block to fine-tune under which shift (Lee et al. 2023, arXiv 2210.11466).

    python -m benchmarks.methods.surgical                        (trains two networks: half an hour each on two cores)
    python -m benchmarks.methods.surgical --shifts corruption labels --rates 0.01 0.001 --tasks 3

A network that is trained on clean CIFAR-10 is fine-tuned on few labelled examples under a shift, one block at a time,
the head, all of it, or nothing. The rate of each cell is chosen by the accuracy on validation tasks, which have images
of their own; the table has the accuracy on test tasks. DIR/surgical.json keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.methods.shifts import network
from benchmarks.report import Report, progress
from benchmarks.scripts import LONG_OUT, options, run_main
from distmeta.config import CorruptionShift, EvaluateConfig, GradientConfig, LabelShift, Phase
from distmeta.config.shifts import Shift
from distmeta.program.scoring import Score
from distmeta.training.evaluate import evaluate

SHIFTS: dict[str, tuple[str, Shift | None]] = {
    "corruption": ("tent", CorruptionShift(names=("gaussian_noise",), severity=5)),
    "subclass": ("subclass", None),
    "labels": ("tent", LabelShift()),
}
"""Name -> the network's job, and the shift; None keeps that of the job."""
LEVELS = {"corruption": "input", "subclass": "feature", "labels": "output"}
NOTHING = "nothing"
BLOCKS = (NOTHING, "block1", "block2", "block3", "block4", "head", "all")
Cells = dict[str, dict[str, dict[str, float]]]


def fine_tuning(args: argparse.Namespace, block: str, rate: float) -> EvaluateConfig:
    """Steps of Adam on labelled examples that move one parameter group."""
    groups, steps = (("head",), 0) if block == NOTHING else ((block,), args.steps)
    phase = Phase(groups=groups, role="support", lr=rate, steps=steps, optimizer="adam", batch=args.batch)
    return EvaluateConfig(learner=GradientConfig(phases=(phase,)), head="head")


def score(args: argparse.Namespace, path: str, shift: Shift | None, block: str, rate: float, split: str) -> Score:
    changes = [
        f"algorithm.evaluate={json.dumps(fine_tuning(args, block, rate).model_dump(mode='json'))}",
        f"tasks.examples={args.examples}",
        f"tasks.eval_queries={args.queries}",
        "runtime.shard_size=1",
        "engine.strategy=loop",
    ]
    changes += [] if shift is None else [f"tasks.shift={json.dumps(shift.model_dump(mode='json'))}"]
    scores = evaluate(path, split=split, tasks=args.tasks, seed=0, overrides=changes).scores
    return next(each for each in scores if (each.protocol, each.metric) == ("inductive", "accuracy"))


def cell(args: argparse.Namespace, path: str, shift: Shift | None, block: str) -> dict[str, float]:
    """Accuracy in percent on test tasks, at the rate that is best on validation tasks."""
    rates = args.rates[:1] if block == NOTHING else args.rates
    by_rate = {rate: score(args, path, shift, block, rate, "val").mean[-1] for rate in rates} if rates[1:] else {}
    best = max(by_rate, key=by_rate.__getitem__, default=rates[0])
    found = score(args, path, shift, block, best, "test")
    return {"accuracy": 100 * found.mean[-1], "half_width": 100 * found.interval[-1], "rate": best}


def table(cells: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """A Markdown table; the best block of each shift, other than all of the network, is in bold."""
    lines = [
        f"| fine-tuned | {' | '.join(f'{name} ({LEVELS[name]})' for name in cells)} |",
        "|---" * (len(cells) + 1) + "|",
    ]
    single = [block for block in BLOCKS if block not in (NOTHING, "all")]
    best = {
        name: max(
            (block for block in single if block in by_block), key=lambda block: by_block[block]["accuracy"], default=""
        )
        for name, by_block in cells.items()
    }
    for block in BLOCKS:
        row = []
        for name, by_block in cells.items():
            found = by_block.get(block)
            text = "-" if found is None else f"{found['accuracy']:.1f} ± {found['half_width']:.1f}"
            row.append(f"**{text}**" if block == best[name] else text)
        lines.append(f"| {block} | {' | '.join(row)} |")
    return lines


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--shifts", nargs="+", choices=list(SHIFTS), default=list(SHIFTS))
    parser.add_argument("--seconds", type=float, default=2400.0, help="of training, a network")
    parser.add_argument("--examples", type=int, default=500, help="labelled examples under the shift")
    parser.add_argument("--queries", type=int, default=1000, help="test images of a task")
    parser.add_argument("--tasks", type=int, default=3, help="draws of examples")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3, 1e-3, 3e-4], help="of Adam, to choose from")
    args = parser.parse_args()
    report = Report("surgical", args.out)
    path = Path(args.out) / "surgical.json"
    cells: Cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    for name in args.shifts:
        job, shift = SHIFTS[name]
        folder = network(args, job, seed=0)
        for block in BLOCKS:
            by_block = cells.setdefault(name, {})
            if block not in by_block:
                by_block[block] = cell(args, folder, shift, block)
                progress(f"{name}, {block}: {by_block[block]['accuracy']:.1f} % at rate {by_block[block]['rate']:g}")
                report.write(cells=cells, examples=args.examples, steps=args.steps, batch=args.batch)
    print("\n".join(["", *table(cells)]))


if __name__ == "__main__":
    run_main(main)
