"""What a table declares, and how its file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distmeta.config.load import load_table
from distmeta.config.table import Column, Row, Table, View
from distmeta.core.errors import UserError

SOURCE = """
from distmeta.config.table import Column, Row, Table
def table() -> Table:
    return Table("waves", "Waves", (Row("MAML", "waves.yaml"),), (Column("5 shots", ("tasks.shots=5",)),))
def number() -> int:
    return 3
"""


def made(**fields: Any) -> Table:
    rows = (
        Row("Source", "a.py", shown=False),
        Row("MAML", "a.py:maml"),
        Row("Fine-tuning (all)", "a.py", start="Source"),
    )
    columns = (
        Column("1 shot", views=(View("inductive"), View("NIL", rows=("MAML",)))),
        Column("5 shots"),
    )
    published = {("MAML", "1 shot, inductive"): "98.7 ± 0.4"}
    return Table(**{"name": "few", "title": "Few", "rows": rows, "columns": columns, "published": published, **fields})


def test_labels_join_the_titles_of_columns_and_views() -> None:
    assert made().labels == ["1 shot, inductive", "1 shot, NIL", "5 shots"]


def test_a_part_keeps_the_rows_that_others_start_from() -> None:
    part = made().part(["fine_tuning_all"], None)
    assert [(row.title, row.shown) for row in part.rows] == [("Source", False), ("Fine-tuning (all)", True)]
    assert part.published == {}
    part = made().part(["MAML"], ["1_shot"])
    assert [row.title for row in part.rows] == ["MAML"]
    assert part.labels == ["1 shot, inductive", "1 shot, NIL"]
    assert part.published == {("MAML", "1 shot, inductive"): "98.7 ± 0.4"}
    assert made().part(None, None) == made()


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["mamml"], None, "--rows: no 'mamml'; allowed: did you mean 'maml'"),
        (None, ["2 shots"], "--columns: no '2_shots'; allowed: did you mean '5_shots'"),
    ],
)
def test_parts_that_there_are_not(rows: list[str] | None, columns: list[str] | None, message: str) -> None:
    with pytest.raises(UserError) as refused:
        made().part(rows, columns)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Few shots"}, "'Few shots' is no name"),
        ({"rows": (Row("A b", "a.py"), Row("a-b", "a.py")), "published": {}}, "'a_b' occurs twice"),
        ({"columns": (Column("x"), Column("x")), "published": {}}, "'x' occurs twice"),
        ({"columns": (Column("x", views=(View(), View())),), "published": {}}, "'x' occurs twice"),
        ({"published": {("MAML", "2 shots"): "1"}}, "few: published: no '2 shots'"),
        ({"published": {("ANIL", "5 shots"): "1"}}, "few: published: no 'ANIL'"),
        (
            {"rows": (Row("MAML", "a.py", start="Source"), Row("Source", "a.py")), "published": {}},
            "row 'MAML' starts from 'Source'; allowed: a row before it",
        ),
        (
            {"columns": (Column("x", views=(View(rows=("ANIL",)),)),), "published": {}},
            "few: views: no row 'ANIL'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        made(**fields)
    assert message in str(refused.value)


def test_a_file_is_read_by_its_function(tmp_path: Path) -> None:
    path = tmp_path / "waves.py"
    path.write_text(SOURCE)
    table, source = load_table(str(path))
    assert (table.name, source) == ("waves", path)
    assert load_table(f"{path}:table")[0] == table
    with pytest.raises(UserError, match=r"number\(\) returned int; allowed: table"):
        load_table(f"{path}:number")
    with pytest.raises(UserError, match="defines no function 'tabel'; allowed: did you mean 'table'"):
        load_table(f"{path}:tabel")
    (tmp_path / "waves.yaml").write_text("name: x")
    with pytest.raises(UserError, match=r"a table of kind '.yaml'; allowed: .py"):
        load_table(str(tmp_path / "waves.yaml"))
