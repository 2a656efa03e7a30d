"""What MLflow has of a run, and whether it is what it should be."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from pathlib import Path

SAME_VALUES = ("train/", "val/", "final_test.")
"""Metrics that depend on the configuration alone."""
SAME_STEPS = (
    *SAME_VALUES,
    *(f"system/{name}" for name in ("tasks_per_s", "data_wait_share", "worker_busy_share", "driver_", "train_s")),
    *(f"system/{name}" for name in ("workers", "restarts", "retries", "copies", "checkpoint_failures")),
)
"""Metrics that every run has, at the same steps."""
_MOST_TOLD = 12

History = dict[str, dict[int, list[float]]]


def history(database: Path) -> tuple[str, History]:
    """The status of the only run in a database, and its values by metric and step."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as store:
        runs = store.execute("SELECT run_uuid, status FROM runs").fetchall()
        assert len(runs) == 1, f"there are {len(runs)} runs in {database}"
        rows = store.execute("SELECT key, step, value, is_nan FROM metrics").fetchall()
    store.close()
    found: History = defaultdict(lambda: defaultdict(list))
    for key, step, value, is_nan in rows:
        found[key][step].append(math.nan if is_nan else value)
    return runs[0][1], found


def last_step(database: Path) -> int:
    """The last step of any metric in a database that is in use."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30.0) as store:
        [(step,)] = store.execute("SELECT max(step) FROM metrics").fetchall()
    store.close()
    return int(step or 0)


def differences(found: History, wanted: History) -> list[str]:
    """What is missing, there twice, or of another value than in the undisturbed run."""
    told = [
        f"{key}: step {step} is there {len(values)} times"
        for key, steps in found.items()
        for step, values in sorted(steps.items())
        if len(values) > 1
    ]
    keys = sorted(key for key in found.keys() | wanted.keys() if key.startswith(SAME_STEPS))
    for key in keys:
        has, should = found.get(key, {}), wanted.get(key, {})
        told += [f"{key}: step {step} is missing" for step in sorted(should.keys() - has.keys())]
        told += [f"{key}: there is a step {step}" for step in sorted(has.keys() - should.keys())]
        if key.startswith(SAME_VALUES):
            both = sorted(has.keys() & should.keys())
            other = [step for step in both if repr(has[step][0]) != repr(should[step][0])]
            told += [f"{key}: {has[step][0]!r} at step {step}, not {should[step][0]!r}" for step in other]
    return told[:_MOST_TOLD] + ([f"and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else [])
