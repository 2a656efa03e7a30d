"""The page of results and the README's table say what the tables' results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from distmeta.config.table import Column, Row, Table, View
from distmeta.core.errors import UserError
from distmeta.training.table_result import Found, TableResult


def result(name: str, accuracy: float) -> TableResult:
    views = (View("transductive", protocol="transductive"), View("inductive", protocol="inductive"))
    columns = (Column("5-way 1-shot", views=views), Column("20-way 1-shot", views=views))
    published = {("MAML", "5-way 1-shot, transductive"): "98.7"}
    table = Table(name, "Omniglot", (Row("MAML", "omniglot.py:maml"),), columns, published, source="Finn et al. 2017")
    score = {"metric": "accuracy", "after": accuracy, "interval": 0.01}
    machine = {"cpu": "a processor", "cores": 2, "torch": "2", "date": "2026-01-01"}
    found = Found("MAML", 0, dict.fromkeys(table.labels, score), {"steps": 7}, None, machine)
    return TableResult(table, 1, 60.0, [found], "an id")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "PICTURES", tmp_path)
    return tmp_path


def test_a_result_is_taken_over_with_its_picture(here: Path) -> None:
    for name in ("zebra", "omniglot"):
        result(name, 0.987).write(here)
        results.take(here / f"{name}_result.json")
    contents = results.tables()
    assert [content["name"] for content in contents] == ["omniglot", "zebra"]
    assert not any("run_id" in content for content in contents)
    text = results.page(contents)
    assert "a processor, 2 cores; torch 2; 2026-01-01; 1 minutes of training a cell; one seed" in text
    assert "| MAML | 98.7 ± 1.0 | 98.7 | 98.7 ± 1.0 | 98.7 ± 1.0 | 98.7 ± 1.0 | 1 | 7 |" in text
    assert "![Omniglot](images/results_omniglot.png)" in text and "Published: Finn et al. 2017" in text


def test_the_readme_shows_rows_of_one_table_with_links_to_pages(here: Path) -> None:
    contents = [result("methods_omniglot", 0.5).to_json()]
    contents[0]["rows"].append({**contents[0]["rows"][0], "": "Another"})
    header = list(contents[0]["rows"][0])[1:]
    values = "50.0 ± 1.0 | 98.7 | 50.0 ± 1.0 | 50.0 ± 1.0 | 50.0 ± 1.0 | 1 | 7 |"
    lines = [
        f"| method | {' | '.join(header)} |",
        "|---" * 8 + "|",
        f"| [MAML](docs/methods/maml.md) | {values}",
        "",
        "a processor, 2 cores; torch 2; 2026-01-01; 1 minutes of training a cell; one seed, 95% intervals over tasks.",
    ]
    assert results.readme_table(contents) == lines
    before = f"above\n{results._START}\nold\n{results._END}\nbelow"
    assert results.readme(before, contents) == "\n".join(["above", results._START, *lines, results._END, "below"])
    assert results.readme_table([]) == []


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"name": "x"})])
def test_what_is_no_result_is_refused(here: Path, content: str) -> None:
    path = here / "x_result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"x_result.json: no result of a table"):
        results.take(path)


def test_rows_of_the_readme_have_pages() -> None:
    assert all((results.CHECKOUT / "docs" / "methods" / f"{name}.md").is_file() for name in results.IN_README[1])


def test_the_documents_say_what_the_results_say() -> None:
    contents: list[dict[str, Any]] = results.tables()
    readme = results.README.read_text(encoding="utf-8")
    assert results.readme(readme, contents) == readme
    if contents:
        assert results.PAGE.read_text(encoding="utf-8") == results.page(contents)
