"""Few-shot regression on the rows of a table: each group of rows is a task.

A task is a group of its split, drawn uniformly; its support and query rows are drawn from the group without
replacement. All draws are hashes of the task's seed, so that tasks do not depend on who makes them.

Shapes: T tasks, N support or query rows, D inputs, O targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import TableTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch
from distmeta.data.importers.base import ImportOptions
from distmeta.data.store import ClassStore, require_examples
from distmeta.tasks.base import SPLITS, TaskSource
from distmeta.tasks.stored import SOURCE_OF, rows_of, scaling_of, split_set_of


class TableSource(TaskSource):
    """Regression tasks over an open store of a table. Inputs are [T, N, D], targets [T, N, O].

    Args:
        config: Numbers of rows, split set, scaling.
        store: The store; its rows stay memory-mapped, only those of the episodes are copied.
        seed: The run's seed.
        dtype: Type of inputs and targets.

    Attributes:
        scaling: The scaling of the inputs; None where they are used as they are.

    Raises:
        UserError: The store holds no table, lacks the split set or has no training group, or a group has fewer rows
            than shots plus queries.
    """

    objective = "mse"

    def __init__(self, config: TableTasks, store: ClassStore, seed: int, dtype: torch.dtype) -> None:
        if store.kind != "table":
            allowed = "a store of a table (`distmeta data import NAME FILE --group COL`)"
            if store.kind in SOURCE_OF:
                allowed += f"; tasks.source '{SOURCE_OF[store.kind]}' takes a {store.kind} store"
            raise UserError(f"data '{store.name}' holds {store.kind}", where="tasks.table", allowed=allowed)
        num_inputs, num_targets = store.shape
        self.seed = seed
        self.input_shape = (num_inputs,)
        self.num_outputs = num_targets
        self.train_outputs = {SUPPORT: num_targets, QUERY: num_targets}
        self._config, self._store, self._dtype = config, store, dtype
        split_set = split_set_of(config.split_set, store)
        splits = store.splits[split_set]
        self._groups = {split: np.asarray(splits.get(split, []), dtype=np.int64) for split in SPLITS}
        for split in SPLITS:
            self._check_split(split)
        self._require_groups("train")
        train = rows_of(store, self._groups["train"])
        self.scaling = scaling_of(store.rows[:, :num_inputs], train) if config.standardise else None

    def _check_split(self, split: str) -> None:
        """Check the rows of each group. An empty val or test split is an error only when it is used."""
        groups = self._groups[split]
        shots, queries = self._config.shots, self._queries(split)
        require_examples(
            [self._store.class_names[index] for index in groups],
            np.diff(self._store.class_offsets)[groups].tolist(),
            shots + queries,
            f"tasks: {shots} shots and {queries} queries of data '{self._store.name}', split '{split}'",
            "group",
        )

    def _require_groups(self, split: str) -> None:
        if not len(self._groups[split]):
            what = f"split '{split}' of data '{self._store.name}' has no group"
            raise UserError(what, where="tasks", allowed="a split with groups")

    def _queries(self, split: str) -> int:
        return self._config.queries if split == "train" else self._config.eval_queries

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        self._require_groups(split)
        groups, offsets = self._groups[split], self._store.class_offsets
        drawn = groups[(seeding.uniform(seeds, "group", 1)[:, 0] * len(groups)).astype(np.int64)]
        shots, count = self._config.shots, self._config.shots + self._queries(split)
        # Group by group: the draws of a shard, over its largest group, could need far more memory than its rows.
        rows = [
            offsets[group] + seeding.choice(seeds[task : task + 1], "rows", offsets[group + 1] - offsets[group], count)
            for task, group in enumerate(drawn)
        ]
        values = self._store.rows[np.concatenate(rows)]
        parts = {SUPPORT: values[:, :shots], QUERY: values[:, shots:]}
        return {role: self._batch(parts[role]) for role in roles}

    def _batch(self, values: npt.NDArray[Any]) -> Batch:
        (num_inputs,) = self.input_shape
        inputs = values[..., :num_inputs]
        inputs = inputs if self.scaling is None else self.scaling(inputs)
        return Batch(*(self._tensor(part) for part in (inputs, values[..., num_inputs:])))

    def _tensor(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._dtype)


def import_options(config: TableTasks) -> ImportOptions:
    """The columns that a job names, for a table that is imported at first use."""
    return ImportOptions(
        group=config.group,
        inputs=config.inputs or (),
        target=(config.target,) if config.target else (),
        split_column=config.split,
    )
