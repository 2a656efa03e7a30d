"""Cells of a table: what is run, what is kept, what is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import distmeta.runtime.ray.trials as ray_trials
from distmeta import train
from distmeta.config.load import change, load_config
from distmeta.config.table import Column, Row, Table, View
from distmeta.core.errors import UserError
from distmeta.training import table_scores, tables
from distmeta.training.table_result import Found, TableResult, mean_of
from distmeta.training.tables import TableOptions, cells_of, run_table

RUN = """
name: waves
tasks: {source: sinusoid}
model: {kind: mlp, hidden: [8, 8]}
algorithm: {learner: {kind: gradient, phases: [{steps: 2, lr: 0.01}]}}
runtime: {executor: local, shard_size: 2}
train: {steps: 3, tasks_per_step: 4}
evaluation: {every: 0, tasks: 8, final_tasks: 8}
tracking: {kind: none}
"""
ROWS = (Row("Start", "waves.yaml", shown=False), Row("MAML", "waves.yaml"), Row("More", "waves.yaml", start="Start"))
COLUMNS = (
    Column("10 shots", views=(View(), View("5 steps", evaluate=("algorithm.evaluate.steps=5",), rows=("MAML",)))),
    Column("5 shots", ("tasks.shots=5",)),
)
TABLE = Table("waves", "Waves", ROWS, COLUMNS, published={("MAML", "10 shots"): "0.8"}, source="a paper")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The table's file, which is not read."""
    (tmp_path / "waves.yaml").write_text(RUN)
    return tmp_path / "table.py"


def options(source: Path, **fields: Any) -> TableOptions:
    return TableOptions(source.parent / "out", quiet=True, **fields)


def test_cells_are_rows_times_columns_times_seeds(source: Path) -> None:
    cells = cells_of(TABLE, source, options(source, seeds=2, budget_s=60.0, overrides=("outer.lr=0.5",)))
    assert [cell.config.name for cell in cells[:4]] == [
        "waves-start-10_shots-seed0",
        "waves-maml-10_shots-seed0",
        "waves-more-10_shots-seed0",
        "waves-start-5_shots-seed0",
    ]
    assert len(cells) == 12
    assert {cell.config.train.budget_s for cell in cells} == {60.0}
    assert {cell.config.outer.lr for cell in cells} == {0.5}
    assert [cell.config.seed for cell in cells] == [0] * 6 + [1] * 6
    assert [cell.config.tasks.shots for cell in cells[:6]] == [10] * 3 + [5] * 3
    untimed = Table("waves", "Waves", (Row("MAML", "waves.yaml", timed=False),))
    longer = options(source, budget_s=60.0, overrides=("train.steps=99", "outer.lr=0.5"))
    (cell,) = cells_of(untimed, source, longer)
    assert (cell.config.train.budget_s, cell.config.train.steps, cell.config.outer.lr) == (None, 3, 0.5)


def test_a_table_is_what_its_runs_are_by_hand(source: Path) -> None:
    result = run_table(TABLE, source, options(source))
    job = load_config(str(source.parent / "waves.yaml"), ["tasks.shots=5", f"checkpoint.path={source.parent}/hand"])
    by_hand = train(job, quiet=True)
    found = {(each.row, label): score for each in result.found for label, score in each.scores.items()}
    assert found["MAML", "5 shots"]["after"] == by_hand.scores[0].mean[-1]
    first = train(change(job, ["name=first", "tasks.shots=10"]), quiet=True)
    second = train(change(job, ["name=second", "tasks.shots=10", f"train.init_from={first.checkpoint}"]), quiet=True)
    assert found["More", "10 shots"]["after"] == second.scores[0].mean[-1]
    assert set(found) == {
        ("MAML", "10 shots"),
        ("MAML", "10 shots, 5 steps"),
        ("MAML", "5 shots"),
        ("More", "10 shots"),
        ("More", "5 shots"),
    }
    rows = result.rows()
    assert [row[""] for row in rows] == ["MAML", "More"]
    assert rows[0]["10 shots, published"] == "0.8"
    assert rows[1]["10 shots, 5 steps"] == "-"
    text = (source.parent / "out" / "waves.md").read_text()
    assert "| MAML | " in text and "Published: a paper" in text and "one seed, 95% intervals over tasks" in text
    assert (source.parent / "out" / "waves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((source.parent / "out" / "waves_result.json").read_text())["columns"] == TABLE.labels


def test_what_is_finished_is_not_run_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = TABLE.part(["MAML"], ["10 shots"])
    first = run_table(part, source, options(source))

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("not called")

    with monkeypatch.context() as patched:
        patched.setattr(tables.SeedRun, "train", never)
        patched.setattr(table_scores, "evaluate", never)
        assert run_table(part, source, options(source)).means() == first.means()
    more = run_table(part, source, options(source, seeds=2))
    mean = more.means()["MAML"]["10 shots"]
    assert (mean.seeds, first.means()["MAML"]["10 shots"].seeds) == (2, 1)
    assert math.isfinite(mean.interval)


def test_two_commands_at_a_time_keep_each_other_s_results(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cell = tables._run_cell

    def after_another_command(*arguments: Any) -> Any:
        monkeypatch.setattr(tables, "_run_cell", run_cell)
        run_table(TABLE.part(["MAML"], ["5 shots"]), source, options(source))
        return run_cell(*arguments)

    monkeypatch.setattr(tables, "_run_cell", after_another_command)
    run_table(TABLE.part(["MAML"], ["10 shots"]), source, options(source))
    book = json.loads((source.parent / "out" / "waves.json").read_text())
    assert {name for name, cell in book["cells"].items() if "result" in cell} == {
        "waves-maml-10_shots-seed0",
        "waves-maml-5_shots-seed0",
    }


MEASURES = """
import pathlib

def measured(checkpoint):
    with pathlib.Path(__file__).with_name("calls").open("a") as calls:
        calls.write("x")
    return {"size": len(checkpoint), "test accuracy": (0.5, 0.25)}

def broken(checkpoint):
    raise ValueError("no such thing")

def nothing(checkpoint):
    return 1.0
"""


def measuring(name: str, *metrics: str) -> Table:
    views = tuple(View(metric, metric=metric, measure=f"measures.py:{name}") for metric in metrics)
    return Table("waves", "Waves", (Row("MAML", "waves.yaml"),), (Column("", views=views),))


def test_a_view_shows_what_a_function_of_the_checkpoint_returns(source: Path) -> None:
    (source.parent / "measures.py").write_text(MEASURES)
    result = run_table(measuring("measured", "size", "test accuracy"), source, options(source))
    scores = result.found[0].scores
    checkpoint = result.found[0].result["tested"] or result.found[0].result["checkpoint"]  # type: ignore[index]
    assert scores["size"]["after"] == len(checkpoint)
    assert result.means()["MAML"]["test accuracy"].text == "50.0 ± 25.0"
    # Once for both views, and not again.
    again = run_table(measuring("measured", "size", "test accuracy"), source, options(source))
    assert again.means() == result.means()
    assert (source.parent / "calls").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "metric", "error"),
    [
        ("measured", "speed", "no speed; there is: size, test accuracy"),
        ("broken", "size", "measures.py:broken raises ValueError: no such thing"),
        ("nothing", "size", "measures.py:nothing returned float; allowed: a mapping of names to values"),
    ],
)
def test_a_measure_that_cannot_be_used_is_told_in_one_line(source: Path, name: str, metric: str, error: str) -> None:
    (source.parent / "measures.py").write_text(MEASURES)
    result = run_table(measuring(name, metric), source, options(source))
    assert str(result.failed[0].error).endswith(error)


def test_a_network_without_a_protocol_has_no_score_under_it(source: Path) -> None:
    score = {"protocol": "inductive", "metric": "accuracy", "tasks": 2, "after": 0.5, "interval": 0.1}
    result = {"digest": "d", "scores": [score], "meta_test": None}
    views = [View(protocol, protocol=protocol) for protocol in ("transductive", "inductive")]
    scores = table_scores.score_views(views, result, load_config(str(source.parent / "waves.yaml")), {})
    assert {title: found["after"] for title, found in scores.items()} == {"inductive": 0.5}
    for make in (lambda: View(protocol="batch"), lambda: Row("MAML", "waves.yaml", protocol="batch")):
        with pytest.raises(UserError, match=r"protocol: no 'batch'; allowed: transductive or inductive"):
            make()


def test_measures_are_looked_up_before_anything_runs(source: Path) -> None:
    with pytest.raises(UserError, match=r"measures\.py"):
        run_table(measuring("measured", "size"), source, options(source))
    (source.parent / "measures.py").write_text(MEASURES)
    with pytest.raises(UserError, match="defines no 'measure'; allowed: did you mean 'measured'"):
        run_table(measuring("measure", "size"), source, options(source))
    assert not (source.parent / "out").exists()


@pytest.mark.parametrize(
    "fields",
    [{"measure": "measures.py"}, {"measure": "m.py:f"}, {"measure": "m.py:f", "metric": "x", "evaluate": ("a",)}],
)
def test_views_that_cannot_be_measured_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^View\.measure: "):
        View(**fields)


def test_a_failed_cell_leaves_the_others(source: Path) -> None:
    broken = (*ROWS, Row("Broken", "waves.yaml", ("outer.lr=1e300", "outer.optimizer=SGD")))
    table = Table("waves", "Waves", (*broken, Row("After", "waves.yaml", start="Broken")))
    result = run_table(table, source, options(source))
    assert [(each.row, each.error is None) for each in result.found] == [
        ("MAML", True),
        ("More", True),
        ("Broken", False),
        ("After", False),
    ]
    assert result.failed[1].error == "'Broken', which it starts from, has failed"
    assert "Failed: Broken, seed 0: " in result.markdown()


@pytest.mark.slow
def test_several_at_once_are_the_same_table(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = TABLE.part(["more"], ["10 shots"])
    alone = run_table(part, source, options(source, seeds=2))
    asked = []

    def run_trials(trial: Any, count: int, *, shown: Any, **named: Any) -> None:
        asked.append((count, named))
        for number in reversed(range(count)):
            shown(number, trial(number))

    monkeypatch.setattr(ray_trials, "run_trials", run_trials)
    elsewhere = TableOptions(source.parent / "other", quiet=True, seeds=2, at_once=3)
    together = run_table(part, source, elsewhere)
    assert together.means() == alone.means()
    assert asked == [(2, {"at_once": 2, "cpus": 1.0, "address": None})] * 2


def test_a_job_that_cannot_be_used_ends_it_before_a_run(source: Path) -> None:
    table = Table("waves", "Waves", (Row("A", "waves.yaml"), Row("B", "wave.yaml")))
    with pytest.raises(UserError, match=r"wave.yaml: no such file"):
        run_table(table, source, options(source))
    assert not (source.parent / "out").exists()
    (source.parent / "out").mkdir()
    (source.parent / "out" / "waves.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        run_table(TABLE, source, options(source))


def test_intervals_over_tasks_and_over_seeds() -> None:
    score = {"metric": "accuracy", "after": 0.5, "interval": 0.1}
    one, two = mean_of([score]), mean_of([score, {**score, "after": 0.6}])
    assert (one.mean, one.interval, one.text) == (0.5, 0.1, "50.0 ± 10.0")
    assert two.mean == pytest.approx(0.55)
    assert two.interval == pytest.approx(12.7062 * math.sqrt(0.005) / math.sqrt(2))
    lost = mean_of([score, {**score, "after": None}])
    assert math.isnan(lost.mean) and math.isnan(lost.interval)
    assert mean_of([{"metric": "loss", "after": 0.5, "interval": None}]).text == "0.500", "of one task"


def test_gains_are_differences_of_runs_with_the_same_seed() -> None:
    table = Table("waves", "Waves", (*ROWS[1:2], Row("Other", "waves.yaml")), COLUMNS[1:], against="MAML")

    def found(row: str, seed: int, after: float | None) -> Found:
        score = {"metric": "accuracy", "after": after, "interval": 0.1}
        return Found(row, seed, {"5 shots": score}, None, None)

    values = {"MAML": (0.5, 0.7, 0.6, 0.9), "Other": (0.52, 0.73, 0.64)}
    cells = [found(row, seed, after) for row, of_row in values.items() for seed, after in enumerate(of_row)]
    gain = TableResult(table, 4, None, cells, None).gains()["Other"]["5 shots"]
    assert (gain.mean, gain.seeds) == (pytest.approx(0.03), 3)
    assert gain.interval == pytest.approx(
        4.303 * 0.01 / math.sqrt(3), rel=1e-3
    )  # Student's t of two degrees of freedom
    text = TableResult(table, 4, None, cells, None).markdown()
    assert "Gain over MAML, differences of runs with the same seed:" in text
    assert "| Other | +3.0 ± 2.5 |" in text
    assert TableResult(table, 1, None, cells[:1] + cells[4:5], None).gains() == {}
    missing = [*cells[:4], found("Other", 0, 0.6), found("Other", 1, None)]
    assert math.isnan(TableResult(table, 2, None, missing, None).gains()["Other"]["5 shots"].mean)


def test_a_mean_over_columns_is_of_rows_that_have_all_of_them(tmp_path: Path) -> None:
    columns = (Column("a"), Column("b"), Column("c", averaged=False), Column("d", views=(View(rows=("MAML",)),)))
    rows = (Row("MAML", "waves.yaml"), Row("Other", "waves.yaml"), Row("Part", "waves.yaml"))
    published = {("MAML", "mean"): "61", ("MAML", "a"): "50"}
    table = Table("waves", "Waves", rows, columns, published, "a paper", against="MAML", mean="mean")
    assert table.labels == ["a", "b", "c", "d", "mean"]

    def found(row: str, seed: int, **values: float) -> Found:
        scores = {label: {"metric": "accuracy", "after": it, "interval": 0.03} for label, it in values.items()}
        return Found(row, seed, scores, None, None)

    cells = [found("MAML", 0, a=0.5, b=0.6, c=0.0, d=0.7), found("MAML", 1, a=0.5, b=0.7, d=0.8)]
    cells += [found("Other", 0, a=0.6, b=0.8), found("Other", 1, a=0.6, b=0.8, c=0.1), found("Part", 0, a=0.1)]
    result = TableResult(table, 2, None, cells, None)
    means = result.means()
    assert means["MAML"]["mean"].mean == pytest.approx((0.6 + 2.0 / 3) / 2)
    assert means["MAML"]["mean"].interval == pytest.approx(12.7062 * 0.2 / 3 / 2, rel=1e-4), "over two seeds"
    assert means["Other"]["mean"].mean == pytest.approx(0.7), "of the two columns that it has scores in"
    assert "mean" not in means["Part"]
    gain = result.gains()["Other"]["mean"]
    differences = [0.1, 0.1, 0.2, 0.1]  # columns and seeds
    assert (gain.mean, gain.seeds) == (pytest.approx(sum(differences) / 4), 4)
    alone = TableResult(table, 1, None, cells[:1], None).means()["MAML"]["mean"]
    assert alone.interval == pytest.approx(0.03 / math.sqrt(3)), "over tasks: three independent means"
    assert result.rows()[0]["mean, published"] == "61"
    assert table.part(None, ["a", "b"]).published == {("MAML", "a"): "50"}, "another mean"
    assert result.write(tmp_path)[-1].suffix == ".png"


def test_a_row_has_runs_where_it_has_scores_and_its_own_protocol(source: Path) -> None:
    columns = (Column("10 shots"), Column("5 shots", views=(View(rows=("Other",)),)))
    rows = (Row("MAML", "waves.yaml", protocol="inductive"), Row("Other", "waves.yaml", start="MAML"))
    table = Table("waves", "Waves", rows, columns)
    cells = cells_of(table, source, options(source))
    assert [cell.key[:2] for cell in cells] == [
        ("MAML", "10 shots"),
        ("Other", "10 shots"),
        ("MAML", "5 shots"),  # which the other one starts from
        ("Other", "5 shots"),
    ]
    assert [[view.protocol for view in cell.views] for cell in cells] == [["inductive"], [None], [], [None]]
    alone = table.part(["MAML"], None)
    assert [cell.key[:2] for cell in cells_of(alone, source, options(source))] == [("MAML", "10 shots")]
    with pytest.raises(UserError, match="waves: no row has a score in these columns; allowed: other rows or columns"):
        cells_of(table.part(["MAML"], ["5 shots"]), source, options(source))


def test_a_comparison_is_with_a_row_that_is_shown() -> None:
    with pytest.raises(UserError, match="against: no 'Start'"):
        Table("waves", "Waves", ROWS, COLUMNS, against="Start")
    assert Table("waves", "Waves", ROWS, COLUMNS, against="MAML").part(["more"], None).against is None


def test_a_table_without_a_score_has_no_picture(tmp_path: Path) -> None:
    result = TableResult(TABLE, 1, None, [Found("MAML", 0, {}, None, "a reason")], None)
    assert [path.name for path in result.write(tmp_path)] == ["waves.md", "waves_result.json"]
    assert result.rows()[0]["10 shots"] == "-"
