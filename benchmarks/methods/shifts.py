"""Errors under corruption: source network, BN-adapt, TENT and TTT, on the test images of CIFAR-10.

    python -m benchmarks.methods.shifts                          (trains two networks: 40 minutes each on two cores)
    python -m benchmarks.methods.shifts --seeds 3 --images 10000 --out runs/shifts     (all test images, as published)
    python -m benchmarks.methods.shifts --seconds 60 --images 400 --turned 40 --names fog contrast

DIR/shifts.json keeps what is finished, and a network that was cut off goes on from its newest checkpoint: the same
command again does what is left. One evaluation gives source, BN-adapt and TENT on the same batches: a stream of TENT is
also scored before its first step, with the running statistics (source) and with those of the batch (BN-adapt).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.report import Report, progress
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.config import AlgorithmConfig, CorruptionShift
from distmeta.config.shifts import CorruptionName
from distmeta.methods import tent, ttt
from distmeta.training import train
from distmeta.training.evaluate import evaluate
from distmeta.training.seeds import student_t

NAMES: tuple[str, ...] = get_args(CorruptionName)
CONTINUAL = "continual"
JOINT, TURNED = "tent", "ttt"
"""Jobs: the network of source, BN-adapt and TENT, and the network of TTT."""
Results = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Run:
    """An evaluation of a network, which some rows are read from.

    Attributes:
        job: The network's job.
        method: Method of the evaluation, from the options.
        queries: Queries of a task, and number of tasks, from the options.
        rows: Row -> (protocol, position among the points that are scored).
        together: Whether a task has all corruptions, one after the other.
    """

    job: str
    method: Callable[[argparse.Namespace], AlgorithmConfig]
    queries: Callable[[argparse.Namespace], tuple[int, int]]
    rows: Mapping[str, tuple[str, int]]
    together: bool = False


def _online(args: argparse.Namespace, parts: int = 1) -> AlgorithmConfig:
    return tent(lr=args.lr, steps=parts * args.images // args.batch, batch=args.batch)


RUNS = {
    "online": Run(
        JOINT,
        _online,
        lambda args: (args.images, 1),
        {
            "source": ("inductive", 0),
            "BN-adapt": ("transductive", 0),
            "TENT, online": ("transductive", -1),
        },
    ),
    "episodic": Run(
        JOINT,
        lambda args: tent(lr=args.lr, steps=args.steps),
        lambda args: (args.batch, args.images // args.batch),
        {"TENT, episodic": ("transductive", -1)},
    ),
    CONTINUAL: Run(
        JOINT,
        lambda args: _online(args, len(args.names)),
        lambda args: (len(args.names) * args.images, 1),
        {"TENT, continual": ("transductive", -1)},
        together=True,
    ),
    "TTT, online": Run(
        TURNED,
        lambda args: ttt(lr=args.ttt_lr, steps=args.turned, batch=4),
        lambda args: (args.turned, 1),
        {"source of TTT": ("inductive", 0), "TTT, online": ("inductive", -1)},
    ),
    "TTT, each": Run(
        TURNED,
        lambda args: ttt(lr=args.ttt_lr, steps=args.steps),
        lambda args: (1, args.turned),
        {"TTT, each image": ("inductive", -1)},
    ),
}
BASE = {"TTT, online": "source of TTT", "TTT, each image": "source of TTT"}
"""What a row is compared with, if not with the source."""


def network(args: argparse.Namespace, job: str, seed: int) -> str:
    """Train a network, or finish its training; returns the folder of its run."""
    changes = (f"name=shifts_{job}_{seed}", f"seed={seed}", f"train.budget_s={args.seconds}", "tracking.kind=none")
    config = load_job(f"test_time.py:{job}", *changes, *args.set)
    train(config, resume="auto")
    return str(Path(config.checkpoint.path) / config.name)


def errors(args: argparse.Namespace, run: Run, path: str, names: Sequence[str]) -> dict[str, float]:
    """Error of each row in percent."""
    queries, tasks = run.queries(args)
    shift = CorruptionShift.model_validate({"names": names, "severity": args.severity}).model_dump()
    changes = [
        f"algorithm.evaluate={json.dumps(run.method(args).evaluate.model_dump(mode='json'))}",
        f"tasks.shift={json.dumps(shift)}",
        f"tasks.eval_queries={queries}",
        f"tasks.examples={args.examples}",
        f"runtime.shard_size={min(tasks, 50)}",
        "engine.strategy=loop",
    ]
    result = evaluate(path, tasks=tasks, seed=0, overrides=changes)
    found = {score.protocol: score.mean for score in result.scores if score.metric == "accuracy"}
    return {row: 100 * (1 - found[protocol][point]) for row, (protocol, point) in run.rows.items()}


def clean_error(args: argparse.Namespace, path: str) -> float:
    """Error in percent on clean test images."""
    changes = ["tasks.shift=null", "algorithm.evaluate={}", f"tasks.eval_queries={args.batch}", "engine.strategy=loop"]
    changes += [f"tasks.examples={args.examples}"]
    result = evaluate(path, tasks=args.images // args.batch, seed=0, overrides=changes)
    accuracy = {score.protocol: score.mean[0] for score in result.scores if score.metric == "accuracy"}
    return 100 * (1 - float(accuracy["inductive"]))


def half_width(values: Sequence[float]) -> float:
    """Half-width of the 95% interval of a mean (Student's t)."""
    if len(values) < 2:
        return float("nan")
    return float(student_t(len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def table(results: Mapping[str, Results], names: Sequence[str]) -> list[str]:
    """A Markdown table of errors in percent, means over seeds; differences are paired by corruption and seed."""
    rows = dict.fromkeys(row for by_row in results.values() for row in by_row if row != "clean")
    header = ("", *(name.replace("_", " ") for name in names), "mean", "against source")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        by_name = [[by_row[row][name] for by_row in results.values() if name in by_row.get(row, {})] for name in names]
        cells = [f"{np.mean(values):.1f}" if values else "-" for values in by_name]
        every = [value for by_row in results.values() for value in by_row.get(row, {}).values()]
        lines.append(f"| {row} | {' | '.join(cells)} | {np.mean(every):.1f} | {against(results, row)} |")
    return lines


def against(results: Mapping[str, Results], row: str) -> str:
    """Mean difference to the row's source, with its 95% interval over corruptions and seeds."""
    base = BASE.get(row, "source")
    differences = [
        value - by_row[base][name]
        for by_row in results.values()
        for name, value in by_row.get(row, {}).items()
        if name in by_row.get(base, {})
    ]
    if row == base or not differences:
        return "-"
    return f"{np.mean(differences):+.1f} ± {half_width(differences):.1f}"


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--seconds", type=float, default=2400.0, help="of training, a network")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--severity", type=int, default=5, choices=range(1, 6))
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES), help="corruptions")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="evaluations")
    parser.add_argument("--images", type=int, default=5000, help="test images of a corruption")
    parser.add_argument("--batch", type=int, default=200, help="images of a batch")
    parser.add_argument("--turned", type=int, default=500, help="test images of a corruption for TTT")
    parser.add_argument("--examples", type=int, default=0, help="test images that are left for support sets")
    parser.add_argument("--lr", type=float, default=1e-3, help="of TENT")
    parser.add_argument("--ttt-lr", type=float, default=1e-3, help="of TTT")
    parser.add_argument("--steps", type=int, default=1, help="inner steps of the episodic rows")
    args = parser.parse_args()
    if args.images % args.batch:
        parser.error(f"--images {args.images} is no multiple of --batch {args.batch}")
    report = Report("shifts", args.out)
    path = Path(args.out) / "shifts.json"
    results: dict[str, Results] = json.loads(path.read_text())["results"] if path.exists() else {}
    for seed in map(str, range(args.seeds)):
        found = results.setdefault(seed, {})
        for job in dict.fromkeys(RUNS[name].job for name in args.runs):
            folder = network(args, job, int(seed))
            if job not in found.setdefault("clean", {}):
                found["clean"][job] = clean_error(args, folder)
            for run in (RUNS[name] for name in args.runs if RUNS[name].job == job):
                for name in (CONTINUAL,) if run.together else args.names:
                    if all(name in found.get(row, {}) for row in run.rows):
                        continue
                    for row, error in errors(args, run, folder, args.names if run.together else [name]).items():
                        found.setdefault(row, {})[name] = error
                        progress(f"seed {seed}, {name}, {row}: {error:.1f} %")
                    report.write(results=results, severity=args.severity, images=args.images, turned=args.turned)
    print("\n".join(["", *table(results, args.names), "", *_clean_lines(results)]))


def _clean_lines(results: Mapping[str, Results]) -> list[str]:
    jobs = dict.fromkeys(job for by_row in results.values() for job in by_row["clean"])
    means = {
        job: np.mean([by_row["clean"][job] for by_row in results.values() if job in by_row["clean"]]) for job in jobs
    }
    return [f"error on clean images, network {job}: {mean:.1f} %" for job, mean in means.items()]


if __name__ == "__main__":
    run_main(main)
