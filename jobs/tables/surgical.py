"""Surgical fine-tuning: which block to fine-tune under which shift (Lee et al. 2023, arXiv 2210.11466).

    distmeta table jobs/tables/surgical.py --budget 30

Networks that are trained on CIFAR-10 are fine-tuned on few labelled examples under a shift: one block at a time, the
head, all of it, or nothing. The rate is that with the best accuracy on validation tasks, which have images of their
own; the table has the accuracy on test tasks. The budget is that of each network; without one, it has the steps of its
job.
"""

import json
from functools import partial

from distmeta.config import EvaluateConfig, GradientConfig, Phase
from distmeta.config.table import Column, Row, Table, View

RATES = (3e-3, 1e-3, 3e-4)
"""Of Adam, to choose from."""
STEPS, BATCH = 100, 50
TASKS = 3
"""Draws of examples."""
NETWORK = "Network"
BLOCKS = {"nothing": None, **{name: name for name in ("block1", "block2", "block3", "block4", "head")}, "whole": "all"}
"""Column -> parameter group that moves."""


def accuracy(group: str | None, checkpoint: str) -> dict[str, tuple[float, float]]:
    """Accuracy on test tasks with its interval, at the rate that is best on validation tasks."""
    from distmeta.training.evaluate import evaluate

    def score(rate: float, split: str) -> tuple[float, float]:
        phase = Phase(
            groups=(group or "head",),
            role="support",
            lr=rate,
            steps=STEPS if group else 0,
            optimizer="adam",
            batch=BATCH,
        )
        method = EvaluateConfig(learner=GradientConfig(phases=(phase,)), head="head")
        changes = (f"algorithm.evaluate={method.model_dump_json()}", "runtime.shard_size=1", "engine.strategy=loop")
        scores = evaluate(checkpoint, split=split, tasks=TASKS, overrides=changes).scores
        found = next(each for each in scores if (each.protocol, each.metric) == ("inductive", "accuracy"))
        return found.mean[-1], found.interval[-1]

    rates = RATES if group else RATES[:1]
    best = max(rates, key=lambda rate: score(rate, "val")) if rates[1:] else rates[0]
    return {"accuracy": score(best, "test")}


nothing, block1, block2, block3, block4, head, whole = (partial(accuracy, group) for group in BLOCKS.values())


def _of_one(title: str, shift: dict[str, object]) -> Row:
    """The network of all rows of this kind, under its shift."""
    changes = (f"tasks.shift={json.dumps(shift)}", "train.steps=0", *_SIZES)
    return Row(title, "../test_time.py:tent", changes, start=NETWORK)


_SIZES = ("tasks.examples=500", "tasks.eval_queries=1000", "evaluation.final_tasks=0", "runtime.shard_size=1")


def table() -> Table:
    return Table(
        name="surgical",
        title="Fine-tuning a part of a network under a shift: accuracy in percent",
        rows=(
            Row(NETWORK, "../test_time.py:tent", ("evaluation.final_tasks=0",), shown=False, shared=True),
            _of_one("Noise (input)", {"kind": "corruption", "names": ["gaussian_noise"], "severity": 5}),
            Row("Other kinds of animals and vehicles (feature)", "../test_time.py:subclass", _SIZES),
            _of_one("Labels in reverse (output)", {"kind": "labels"}),
            Row("A mark that says nothing any more (output)", "../test_time.py:spurious", _SIZES),
        ),
        columns=(
            Column("", views=tuple(View(name, metric="accuracy", measure=f"surgical.py:{name}") for name in BLOCKS)),
        ),
        notes=(
            f"{STEPS} steps of Adam with batches of {BATCH} of 500 labelled examples, at the best of {len(RATES)} "
            f"rates; of one seed, intervals are over {TASKS} draws of examples.",
        ),
    )
