"""Accuracy against the share of tuned parameters, for every kind of part: few-shot intents, MiniLM, one class split.

Each kind is fitted to unseen tasks by a few steps of Adam, from two starts: plain (as it begins) and meta-learned
(class means over its features, on the training classes). Tasks have 5 intents, or as many
as every split has.
DIR/efficiency_STORE.json keeps what is finished, so a run that is cut off goes on: `docs/measured` has what is shown
in the documentation.

    python -m benchmarks.methods.efficiency --store banking77
    python -m benchmarks.methods.efficiency --kinds lora ia3 --episodes 20 --set train.steps=20

The unified view of these kinds: He et al. 2022, arXiv 2110.04366.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.pictures import shares
from benchmarks.report import Report, progress
from benchmarks.scripts import LONG_OUT, load_job, options, run_main
from distmeta.config.models import TransformerConfig
from distmeta.data.catalog import open_store
from distmeta.models.base import HEAD
from distmeta.models.petl.transformer import Transformer
from distmeta.program.scoring import headline
from distmeta.training import train
from distmeta.training.evaluate import evaluate

ALL_LAYERS = "[query, key, value, output, ffn_in, ffn_out]"


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        petl: `model.petl`.
        outer_lr: Rate of the meta-learned start (Adam).
        inner_lr: Rate of the steps on a task (Adam), from either start.
        changes: What else it changes of the job.
    """

    petl: str
    outer_lr: float
    inner_lr: float
    changes: tuple[str, ...] = ()


KINDS = {
    "full": Kind("[{kind: full}]", 5e-5, 1e-4, ("model.frozen_dtype=null",)),  # nothing is frozen
    "LoRA": Kind(f"[{{kind: lora, rank: 16, alpha: 32, targets: {ALL_LAYERS}}}]", 5e-4, 2e-3),
    "LoRA, small": Kind("[{kind: lora, rank: 2, alpha: 4}]", 1e-3, 5e-3),
    "adapter": Kind("[{kind: adapter, width: 32}]", 5e-4, 2e-3),
    "parallel adapter": Kind("[{kind: adapter, form: parallel, width: 32, scale: 4.0}]", 5e-4, 1e-3),
    "MAM": Kind("[{kind: mam, length: 8, width: 32}]", 5e-4, 1e-3),
    "prefix": Kind("[{kind: prefix, length: 8}]", 5e-3, 1e-2),
    "BitFit": Kind("[{kind: bitfit}]", 1e-3, 5e-3),
    "IA3": Kind("[{kind: ia3}]", 5e-3, 1e-2),
}
STARTS = ("plain", "meta-learned")


def share_of(kind: Kind) -> float:
    """Tuned parameters divided by the network's weights."""
    config = TransformerConfig.model_validate({"pretrained": "minilm", "petl": yaml.safe_load(kind.petl)})
    return Transformer(config, (64,), {HEAD: 5}, torch.float32).share_tuned


def run_kind(args: argparse.Namespace, name: str, kind: Kind) -> dict[str, Any]:
    """Accuracy in percent by start and task, with half-widths of the intervals over episodes."""
    common = [
        f"tasks.store={args.store}",
        f"tasks.split_set='{args.split}'",
        f"model.petl={kind.petl}",
        f"outer.lr={kind.outer_lr}",
        "evaluation.final_tasks=0",
        "tracking.kind=none",
        *args.set,
        *kind.changes,
    ]
    slug = name.lower().replace(", ", "_").replace(" ", "_")
    plain, trained = (
        train(load_job(f"intents.py:{job}", f"name=efficiency_{args.store}_{slug}_{job}", *common, *more), anew=True)
        for job, more in (("frozen", ["train.steps=0"]), ("lora_protonet", []))
    )
    phase = f"{{groups: [body, head], lr: {kind.inner_lr}, steps: {args.steps}, optimizer: adam}}"
    learner = f"algorithm.learner={{kind: gradient, head: prototypes, phases: [{phase}]}}"
    store = open_store(args.store)
    most = min(len(store.split(args.split, split)) for split in ("train", "val", "test"))
    tasks = {"5-way": (5, args.episodes), f"{most}-way": (most, max(1, args.episodes // 10))}
    scores: dict[str, Any] = {}
    for start, path in zip(STARTS, (plain.checkpoint, trained.tested), strict=True):
        for task, (way, episodes) in tasks.items():
            overrides = [learner, f"tasks.way={way}", f"tasks.shots={args.shots}", "engine.strategy=vmap"]
            overrides += [
                "evaluation.curve=false",
                "engine.chunk=2",
                "runtime.threads_per_worker=2",
                "runtime.shard_size=50",
            ]
            found = headline(evaluate(str(path), tasks=episodes, seed=0, overrides=overrides).scores)
            scores[f"{start}, {task}"] = (100 * found.mean[-1], 100 * found.interval[-1])
    return {"share": share_of(kind), "scores": scores}


def table(results: Mapping[str, Any]) -> list[str]:
    """A Markdown table, the kinds by the share that they tune."""
    columns = list(next(iter(results.values()))["scores"])
    lines = [f"| kind | share tuned | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for name, result in sorted(results.items(), key=lambda item: item[1]["share"]):
        cells = [f"{mean:.1f} ± {half:.1f}" for mean, half in result["scores"].values()]
        lines.append(f"| {name} | {result['share']:.2%} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = options(__doc__, overrides=True, default_out=LONG_OUT)
    parser.add_argument("--store", choices=("banking77", "clinc150"), default="banking77")
    parser.add_argument("--split", default="01")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of Adam on each task")
    parser.add_argument("--episodes", type=int, default=200, help="of 5 ways; a tenth of it of most ways")
    args = parser.parse_args()
    report = Report(f"efficiency_{args.store}", args.out)
    path = Path(args.out) / f"efficiency_{args.store}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in args.kinds:
        if name not in results:
            results[name] = run_kind(args, name, KINDS[name])
            progress("\n".join(table({name: results[name]})[-1:]))
            report.write(results=results, table=table(results))
    shares(Path(args.out) / f"efficiency_{args.store}.png", results, report.title)
    print("\n".join(table(results)))


if __name__ == "__main__":
    run_main(main)
