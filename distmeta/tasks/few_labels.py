"""Few labelled examples of a store as the support and query sets of tasks.

Shapes: T tasks, K labelled examples, S and Q of them in a support and a query set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distmeta.config.transfer import TextTransferTasks, TransferTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64, mix
from distmeta.core.types import TaskSpec
from distmeta.data.store import ClassStore, require_examples

Rows = npt.NDArray[np.int64]


class FewLabels:
    """Rows of a store: those for training, the labelled ones of them, and those for tests.

    Args:
        config: Numbers of examples, division.
        store: The store.
        seed: Draws the labelled examples.
        where: Field of the configuration that names the store, for messages.

    Attributes:
        train: Rows for training.
        labelled: [K] rows of them. Neighbours are of different classes.

    Raises:
        UserError: The store does not tell which examples are for tests, or has too few for training.
    """

    def __init__(self, config: TransferTasks | TextTransferTasks, store: ClassStore, seed: int, where: str) -> None:
        self._config = config
        self.train, self._test = divide(store, config.test_share, where)
        self.labelled = _drawn(self.train, store, config.examples, mix(seed, "labelled"))

    def in_turn(self, specs: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
        """Specs of `val` tasks whose seeds, modulo the number of folds, are the folds that they hold out in turn."""
        folds = self._config.folds
        return tuple(replace(spec, seed=spec.seed - spec.seed % folds + spec.index % folds) for spec in specs)

    def rows(self, split: str, seeds: Uint64) -> tuple[Rows, Rows]:
        """Rows of the support sets [T, S] and query sets [T, Q] of tasks."""
        return {"train": self._train_rows, "val": self._val_rows, "test": self._test_rows}[split](seeds)

    def _train_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        support, queries = self._config.divided
        chosen = self.labelled[seeding.choice(seeds, "division", len(self.labelled), support + queries)]
        return chosen[:, :support], chosen[:, support:]

    def _val_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        """Neighbours among the labelled examples are of different classes, so that folds have about as many of each."""
        count, folds = len(self.labelled), self._config.folds
        held = (seeds % np.uint64(folds)).astype(np.int64)[:, None] * (count // folds) + np.arange(count // folds)
        others = np.stack([np.setdiff1d(np.arange(count), rows) for rows in held])
        order = seeding.choice(seeds, "support order", others.shape[1], others.shape[1])
        return self.labelled[np.take_along_axis(others, order, axis=1)], self.labelled[held]

    def _test_rows(self, seeds: Uint64) -> tuple[Rows, Rows]:
        count, available = len(self.labelled), len(self._test)
        support = self.labelled[seeding.choice(seeds, "support order", count, count)]
        if self._config.eval_queries >= available:
            return support, np.broadcast_to(self._test, (len(seeds), available))
        return support, self._test[seeding.choice(seeds, "queries", available, self._config.eval_queries)]


def divide(store: ClassStore, test_share: float | None, where: str) -> tuple[Rows, Rows]:
    """The rows of a store for training and for tests.

    Args:
        store: The store.
        test_share: Share of each class that is for tests, its last rows; None takes the data's own division.
        where: Field of the configuration that names it, for messages.

    Raises:
        UserError: The data has no division of its own, or a class has no example for training.
    """
    sizes = np.diff(store.class_offsets)
    if test_share is not None:
        counts = sizes - np.rint(sizes * test_share).astype(np.int64)
    elif store.manifest.parts:
        counts = np.array(store.manifest.parts["train"])
    else:
        what = f"data '{store.name}' does not tell which of its examples are for tests"
        raise UserError(
            what, where=where, allowed="tasks.test_share, or data that is imported again, if it has a test set"
        )
    require_examples(store.class_names, counts.tolist(), 1, f"training examples of data '{store.name}'")
    starts, ends = store.class_offsets[:-1], store.class_offsets[1:]
    train = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    test = [np.arange(start + count, end) for start, count, end in zip(starts, counts, ends, strict=True)]
    return np.concatenate(train), np.concatenate(test)


def _drawn(train: Rows, store: ClassStore, count: int, seed: int) -> Rows:
    """The labelled examples: rows of all classes in turn, of each as many as of others, or one more."""
    classes = store.labels_of(train)
    num_classes = len(store.class_names)
    order = seeding.choice([seed], "classes", num_classes, num_classes)[0]
    drawn: list[Any] = []
    for place, label in enumerate(order):
        rows, share = train[classes == label], count // num_classes + (place < count % num_classes)
        name = store.class_names[label]
        require_examples(
            [name], [len(rows)], share, f"tasks.examples: {count} labelled examples of data '{store.name}'"
        )
        picked = rows[seeding.choice([mix(seed, int(label))], "rows", len(rows), share)[0]] if share else rows[:0]
        drawn += [(turn, place, row) for turn, row in enumerate(picked)]
    return np.array([row for *_, row in sorted(drawn)], dtype=np.int64)
