"""The trace of faults, and what is measured of a training that lives through it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.faults.__main__ import rows
from benchmarks.faults.job import FORMS, config
from benchmarks.faults.systems import System
from benchmarks.faults.trace import KINDS, Fault, Training, trace
from distmeta.core.errors import UserError

SAVED_AT, PAUSE_S = 5, 0.05
SCRIPT = f"""
import sys, time
from pathlib import Path
folder, steps = Path(sys.argv[1]), int(sys.argv[3])
saved = folder / "saved"
begin = int(saved.read_text()) if saved.exists() else 0
for step in range(begin + 1, steps + 1):
    time.sleep({PAUSE_S})
    with (folder / "journal").open("a") as journal:
        journal.write(f"step {{step}}/{{steps}}\\n")
    if step % {SAVED_AT} == 0:
        saved.write_text(str(step))
with (folder / "journal").open("a") as journal:
    journal.write("digest " + "ab" * 32 + "\\n")
"""


@dataclass(frozen=True)
class Script(System):
    """A training that is a loop of pauses; `module` is its text."""

    def command(self, folder: Path, form: str, steps: int) -> list[str]:
        return [sys.executable, "-c", self.module, str(folder), form, str(steps)]


@pytest.mark.parametrize("seed", range(20))
def test_a_trace_has_each_kind_as_often_and_is_a_function_of_its_seed(seed: int) -> None:
    faults = trace(seed, 2, 120)
    assert Counter(fault.kind for fault in faults) == dict.fromkeys(KINDS, 2)
    steps = [fault.step for fault in faults]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1] < 118
    assert faults == trace(seed, 2, 120)
    assert faults != trace(seed + 1, 2, 120)


def test_a_killed_driver_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    training = Training(Script("script", SCRIPT, "nobody"), tmp_path / "run", "meta", 16)
    training.start()
    try:
        assert training.until(8)
        outcome = training.hit(Fault("driver killed", 8, 0.0))
        assert training.wait()
    finally:
        training.end()
    assert outcome.pause_s is not None
    assert outcome.pause_s > 3 * PAUSE_S
    made = [step for _, step in training.times]
    first = made.index(6, made.index(6) + 1)
    assert made == [*range(1, first + 1), *range(6, 17)]
    assert outcome.redone == first - 5
    assert training.digest == "ab" * 32
    assert training.step_s >= PAUSE_S / 2


def test_without_a_worker_there_is_one_line(tmp_path: Path) -> None:
    training = Training(Script("script", SCRIPT, "nobody"), tmp_path / "run", "meta", 16)
    training.start()
    try:
        with pytest.raises(UserError, match="worker hangs: no worker of script"):
            training.hit(Fault("worker hangs", 1, 0.5))
    finally:
        training.end()


def test_a_training_that_ends_early_is_told(tmp_path: Path) -> None:
    training = Training(Script("script", "raise SystemExit(3)", "nobody"), tmp_path / "run", "meta", 4)
    training.start()
    try:
        assert not training.until(1)
        assert not training.wait()
    finally:
        training.end()
    assert training.digest is None


def test_rows_are_means_over_the_faults_of_a_kind() -> None:
    found = {
        "form": "meta",
        "system": "one",
        "digest": "a",
        "undisturbed": "a",
        "step_s": 0.5,
        "outcomes": [
            {"kind": "worker killed", "pause_s": 1.0, "redone": 0},
            {"kind": "worker killed", "pause_s": 3.0, "redone": 4},
            {"kind": "worker hangs", "pause_s": None, "redone": 0},
        ],
    }
    killed, hangs, driver = rows([found])
    assert (killed["goes on after"], killed["work done again"]) == ("2.0 s", "1.0 s")
    assert hangs["goes on after"] == "does not go on"
    assert driver["goes on after"] == "did not happen"
    assert {row["same bits at the end"] for row in rows([found])} == {"yes"}
    assert {row["same bits at the end"] for row in rows([{**found, "digest": None, "undisturbed": None}])} == {"no"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_run(form: str) -> None:
    assert config(form, 30).train.steps == 30
