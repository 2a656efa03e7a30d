"""The metrics that a run has logged, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

Metrics = Mapping[int, Mapping[str, float]]
"""Step -> name -> value."""


def history_table(metrics: Metrics) -> pa.Table:
    """A row for each step, in order: `step`, and a column for each metric, null where it was not logged."""
    import pyarrow as pa  # a lazy import: most callers never ask for the table

    steps = sorted(metrics)
    columns = {"step": pa.array(steps, pa.int64())}
    for name in _names(metrics[step] for step in steps):
        columns[name] = pa.array([metrics[step].get(name) for step in steps], pa.float64())
    return pa.table(columns)


def _names(rows: Iterable[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
