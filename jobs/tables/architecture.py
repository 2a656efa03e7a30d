"""Cells of mixed operations beside cells without a choice: CIFAR-FS, 5-way 1-shot.

    distmeta table jobs/tables/architecture.py:cifar_fs --budget 30 --seeds 3
    distmeta table jobs/tables/architecture.py:cifar_fs --budget 30 --seeds 3 --set model.filters=32

The network that a run has chosen is trained by `jobs/architecture.py:chosen`.
"""

import random

from distmeta.config.table import Column, Row, Table, View

OPERATIONS = ("conv3x3", "conv1x1", "max_pool", "avg_pool", "skip")
EDGES, CHOICES = 3, 3


def _chosen(title: str, operations: tuple[str, ...]) -> Row:
    return Row(title, "../architecture.py:chosen", (f"model.chosen=[{', '.join(operations)}]",))


def _at_random(number: int) -> Row:
    operations = tuple(random.Random(number).choices(OPERATIONS, k=EDGES))
    return _chosen(f"At random: {', '.join(operations)}", operations)


def cifar_fs() -> Table:
    limits = ("evaluation.tasks=100", "evaluation.final_tasks=600")
    return Table(
        name="architecture",
        title="Operations of a cell: CIFAR-FS, 5-way 1-shot, accuracy in percent",
        rows=(
            Row("Mixed, weights meta-learned (DARTS)", "../architecture.py:darts"),
            _chosen("All edges 3x3 convolutions", ("conv3x3",) * EDGES),
            *(_at_random(number) for number in range(CHOICES)),
        ),
        columns=(Column("", limits, tuple(View(name, protocol=name) for name in ("transductive", "inductive"))),),
    )
