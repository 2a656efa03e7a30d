"""The judges of the chaos tests see what they are there to see, and their faults are those of the seed."""

from __future__ import annotations

import math
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest

from .faults import KINDS, plan
from .records import History, differences, history, last_step
from .sessions import Sessions, title


def records(folder: Path, rows: list[tuple[str, int, float]], runs: int = 1) -> Path:
    """A database with the tables of MLflow's that are read."""
    path = folder / "records.db"
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE runs (run_uuid TEXT, status TEXT)")
        store.execute("CREATE TABLE metrics (key TEXT, step INTEGER, value REAL, is_nan BOOLEAN)")
        store.executemany("INSERT INTO runs VALUES (?, 'FINISHED')", [(str(number),) for number in range(runs)])
        shown = [(key, step, 0.0 if math.isnan(value) else value, math.isnan(value)) for key, step, value in rows]
        store.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", shown)
    store.close()
    return path


def wanted() -> History:
    return {"train/loss": {1: [0.5], 2: [math.nan]}, "system/tasks_per_s": {1: [10.0], 2: [11.0]}}


def test_records_that_are_whole_pass(tmp_path: Path) -> None:
    rows = [("train/loss", 1, 0.5), ("train/loss", 2, math.nan), ("system/silent", 2, 1.0)]
    rows += [("system/tasks_per_s", 1, 3.0), ("system/tasks_per_s", 2, 4.0)]
    status, found = history(records(tmp_path, rows))
    assert last_step(tmp_path / "records.db") == 2
    assert (status, differences(found, wanted())) == ("FINISHED", [])


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        ("train/loss", {1: [0.5]}, "train/loss: step 2 is missing"),
        ("train/loss", {1: [0.5, 0.5], 2: [math.nan]}, "train/loss: step 1 is there 2 times"),
        ("train/loss", {1: [0.25], 2: [math.nan]}, "train/loss: 0.25 at step 1, not 0.5"),
        ("train/loss", {1: [0.5], 2: [math.nan], 3: [0.1]}, "train/loss: there is a step 3"),
        ("system/tasks_per_s", {1: [9.0]}, "system/tasks_per_s: step 2 is missing"),
        ("system/silent", {1: [1.0, 1.0]}, "system/silent: step 1 is there 2 times"),
    ],
)
def test_what_is_wrong_is_told(key: str, values: dict[int, list[float]], told: str) -> None:
    assert differences({**wanted(), key: values}, wanted()) == [told]


def test_a_second_run_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="there are 2 runs"):
        history(records(tmp_path, [], runs=2))


def test_a_plan_is_that_of_its_seed() -> None:
    assert plan(7, 33, KINDS) == plan(7, 33, KINDS) != plan(8, 33, KINDS)
    assert set(Counter(fault.kind for fault in plan(7, 33, KINDS)).values()) == {33 // len(KINDS)}


def test_processes_that_hide_are_found_and_ended(tmp_path: Path) -> None:
    sessions = Sessions(str(tmp_path), {}, tmp_path)
    deep = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']{})"
    session = sessions.start("own", [sys.executable, "-c", deep.format("")])
    other = sessions.start("other", [sys.executable, "-c", deep.format(", start_new_session=True")])
    session.leader.wait()
    other.leader.wait()
    assert [title(process).endswith("sleep(600)") for process in session.members()] == [True]
    found = sessions.survivors()
    assert sorted(line.partition(":")[0] for line in found.values()) == ["elsewhere", "own"]
    sessions.end()
    assert not sessions.survivors()
