"""What follows from seconds: ratios, operations, the table, JSON and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engine.common.agreement import Agreement
from benchmarks.engine.common.contenders import Status
from benchmarks.engine.common.trial import TrialResult
from benchmarks.engine.memory import Point, Sweep, curves, growth, table, to_json
from benchmarks.engine.speed_results import Entry, Row, speeds
from benchmarks.pictures import memory_curves, ratio_bars

GOOD = Agreement(error=1e-6, worst="head.bias", worst_error=2e-6, silent_error=0.0)
BAD = Agreement(error=0.5, worst="head.bias", worst_error=0.7, silent_error=0.0)
CHOICE = {"strategy": "vmap", "chunk": 4, "memory": "unrolled", "reason": "fastest", "took_s": 1.25}
ROW = Row(
    name="row",
    about="a row",
    num_tasks=10,
    gflop=40.0,
    peak_gflops=(90.0, 100.0),
    entries=(
        Entry("plain_loop", Status.OK, "", 2, GOOD, 0.5, (2.0, 1.0, 4.0)),
        Entry("higher", Status.OK, "", 1, GOOD, 0.5, (1.0, 1.0, 1.0), peak_mib=12.5),
        Entry("torchopt", Status.LEFT_OUT, "not installed"),
        Entry("vmap", Status.OK, "", 2, GOOD, 3.0, (0.5, 0.5, 0.6)),
        Entry("compiled", Status.FAILED, "no compiler", 2),
        Entry("compiled_vmap", Status.DISAGREES, "relative error 0.5", 2, BAD, 3.0),
        Entry("auto", Status.OK, "", 2, GOOD, 3.0, (0.4,), choice=CHOICE),
    ),
)


def test_numbers_follow_from_the_median() -> None:
    numbers = ROW.numbers(ROW.entries[3])
    assert numbers["run_s"] == 0.5
    assert numbers["tasks_per_s"] == 20.0
    assert numbers["x_plain_loop"] == 4.0
    assert numbers["x_best_peer"] == 2.0
    assert numbers["gflops"] == 80.0
    assert numbers["share_of_peak"] == pytest.approx(0.8)
    assert set(ROW.numbers(ROW.entries[4]).values()) == {None}


def test_a_contender_that_disagrees_is_named_and_has_no_speed() -> None:
    assert ROW.disagreeing == ["compiled_vmap"]
    assert speeds([ROW]) == {"row": {"higher": 2.0, "distmeta: vmap": 4.0, "distmeta: auto": 5.0}}


def test_the_table_has_the_same_columns_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ROW.table()
    assert len({tuple(line) for line in lines}) == 1
    assert lines[3] == {
        "contender": "distmeta: vmap",
        "threads": 2,
        "tasks/s": "20",
        "x plain": "4",
        "x best peer": "2",
        "GFLOP/s": "80",
        "of peak": "80.0%",
        "first s": "3",
        "peak MiB": None,
        "error": "1.0e-06",
        "worst": "2.0e-06",
    }
    ROW.print()
    printed = capsys.readouterr().out.splitlines()
    assert printed[1:3] == [
        "row: a row, 10 tasks",
        "40 GFLOP in matrix products and convolutions; peak 90, then 100 GFLOP/s",
    ]
    assert [line.strip() for line in printed[-4:]] == [
        "torchopt: left out: not installed",
        "distmeta: compiled: failed: no compiler",
        "distmeta: compiled_vmap: disagrees: relative error 0.5",
        "distmeta: auto: chose vmap, 4, unrolled in 1.2 s",
    ]


def test_json_holds_everything() -> None:
    result = json.loads(json.dumps(ROW.to_json()))
    assert (result["row"], result["tasks"], result["gflop"]) == ("row", 10, 40.0)
    assert result["peak_gflops"] == {"before": 90.0, "after": 100.0}
    assert [entry["status"] for entry in result["contenders"]].count("ok") == 4
    assert result["contenders"][0]["seconds"] == [2.0, 1.0, 4.0]
    assert result["contenders"][5]["agreement"]["worst"] == "head.bias"
    assert result["contenders"][6]["choice"] == CHOICE


POINTS = [
    Point("plain_loop", 5, TrialResult(Status.OK, "", 0.6, 0.5, 100.0, 1.0)),
    Point("plain_loop", 50, TrialResult(Status.OK, "", 5.1, 5.0, 900.0, 1.0)),
    Point("plain_loop", 100, TrialResult(Status.TOO_LARGE, "more than 1000 MiB")),
    Point("loop/flat", 5, TrialResult(Status.OK, "", 0.7, 0.6, 80.0, 1.0)),
    Point("loop/flat", 50, TrialResult(Status.FAILED, "no")),
    Point("loop/flat", 100, TrialResult(Status.SKIPPED, "failed at 50 steps")),
]
SWEEP = Sweep(("plain_loop",), (5, 50, 100), 20, 5, 5, 1, 2, 1, 3, 300.0, 8192.0, "cpu")


def test_growth_is_that_between_the_ends() -> None:
    assert growth(POINTS) == {"plain_loop": 9.0}
    assert curves(POINTS)["plain_loop"] == [(5, 100.0, 0.5), (50, 900.0, 5.0)]


def test_the_memory_table_shows_why_a_cell_is_empty() -> None:
    first, second = table(POINTS)
    assert list(first) == ["contender", "5 steps", "50 steps", "100 steps", "growth"]
    assert first["50 steps"] == "900, 5"
    assert first["100 steps"] == "too large"
    assert [second["50 steps"], second["100 steps"], second["growth"]] == ["failed", "skipped", None]
    assert json.loads(json.dumps(to_json(POINTS, SWEEP)))["cells"][2]["reason"] == "more than 1000 MiB"


def test_pictures_are_written(tmp_path: Path) -> None:
    ratio_bars(tmp_path / "new" / "bars.png", speeds([ROW]), "a machine")
    memory_curves(tmp_path / "curves.png", curves(POINTS), "a machine")
    ratio_bars(tmp_path / "empty.png", {"row": {}}, "a machine")
    memory_curves(tmp_path / "none.png", {}, "a machine")
    for path in tmp_path.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.rglob("*.png"))) == 4
