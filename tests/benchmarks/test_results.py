"""What follows from seconds: ratios, operations, the table, JSON and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engine.agreement import Agreement
from benchmarks.engine.memory import Point, Sweep, curves, growth, table, to_json
from benchmarks.engine.pictures import memory_curves, ratio_bars
from benchmarks.engine.results import DISAGREES, FAILED, LEFT_OUT, OK, Entry, Row, bars

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
        Entry("plain_loop", OK, "", 2, GOOD, 0.5, (2.0, 1.0, 4.0)),
        Entry("higher", OK, "", 1, GOOD, 0.5, (1.0, 1.0, 1.0), peak_mib=12.5),
        Entry("torchopt", LEFT_OUT, "not installed"),
        Entry("vmap", OK, "", 2, GOOD, 3.0, (0.5, 0.5, 0.6)),
        Entry("compiled", FAILED, "no compiler", 2),
        Entry("compiled_vmap", DISAGREES, "relative error 0.5", 2, BAD, 3.0),
        Entry("auto", OK, "", 2, GOOD, 3.0, (0.4,), choice=CHOICE),
    ),
)


def test_numbers_follow_from_the_median() -> None:
    found = ROW.numbers(ROW.entries[3])
    assert found["run_s"] == 0.5
    assert found["tasks_per_s"] == 20.0
    assert found["x_plain_loop"] == 4.0
    assert found["x_best_peer"] == 2.0
    assert found["gflops"] == 80.0
    assert found["share_of_peak"] == pytest.approx(0.8)
    assert set(ROW.numbers(ROW.entries[4]).values()) == {None}


def test_who_disagrees_is_named_and_has_no_speed() -> None:
    assert ROW.disagreeing == ["compiled_vmap"]
    assert bars([ROW]) == {"row": {"higher": 2.0, "vmap": 4.0, "auto": 5.0}}


def test_the_table_has_the_same_columns_for_all() -> None:
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
    assert ROW.notes() == [
        "torchopt: left out: not installed",
        "distmeta: compiled: failed: no compiler",
        "distmeta: compiled_vmap: disagrees: relative error 0.5",
        "distmeta: auto: chose vmap, 4, unrolled in 1.2 s",
    ]


def test_json_holds_everything() -> None:
    found = json.loads(json.dumps(ROW.to_json()))
    assert (found["row"], found["tasks"], found["gflop"]) == ("row", 10, 40.0)
    assert found["peak_gflops"] == {"before": 90.0, "after": 100.0}
    assert [one["status"] for one in found["contenders"]].count("ok") == 4
    assert found["contenders"][0]["seconds"] == [2.0, 1.0, 4.0]
    assert found["contenders"][5]["agreement"]["worst"] == "head.bias"
    assert found["contenders"][6]["choice"] == CHOICE


POINTS = [
    Point("plain_loop", 5, "ok", "", 100.0, 0.5, 0.6, 1.0),
    Point("plain_loop", 50, "ok", "", 900.0, 5.0, 5.1, 1.0),
    Point("plain_loop", 100, "too large", "more than 1000 MiB", None, None, None, None),
    Point("loop/flat", 5, "ok", "", 80.0, 0.6, 0.7, 1.0),
    Point("loop/flat", 50, "failed", "no", None, None, None, None),
    Point("loop/flat", 100, "skipped", "failed at 50 steps", None, None, None, None),
]


def test_growth_is_that_between_the_ends() -> None:
    assert growth(POINTS) == {"plain_loop": 9.0}
    assert curves(POINTS)["plain_loop"] == ([5, 50], [100.0, 900.0], [0.5, 5.0])


def test_the_memory_table_shows_why_a_cell_is_empty() -> None:
    first, second = table(POINTS)
    assert list(first) == ["contender", "5 steps", "50 steps", "100 steps", "growth"]
    assert first["50 steps"] == "900, 5"
    assert first["100 steps"] == "too large"
    assert [second["50 steps"], second["100 steps"], second["growth"]] == ["failed", "skipped", None]
    assert json.loads(json.dumps(to_json(POINTS, Sweep(("plain_loop",)))))["cells"][2]["reason"] == "more than 1000 MiB"


def test_pictures_are_written(tmp_path: Path) -> None:
    ratio_bars(tmp_path / "new" / "bars.png", bars([ROW]), "a machine")
    memory_curves(tmp_path / "curves.png", curves(POINTS), "a machine")
    ratio_bars(tmp_path / "empty.png", {"row": {}}, "a machine")
    memory_curves(tmp_path / "none.png", {}, "a machine")
    for path in tmp_path.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.rglob("*.png"))) == 4
