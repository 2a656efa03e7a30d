"""Every method of the table has a job that runs it, and a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distmeta.cli.app import run
from distmeta.config.load import load_config
from distmeta.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_job_and_a_page(name: str) -> None:
    preset = METHODS[name]
    assert preset.make().method == name
    assert load_config(str(ROOT / preset.job)).algorithm.method == name
    file = f"{preset.page or name}.md"
    page, index = ((ROOT / "docs" / "methods" / each).read_text() for each in (file, "index.md"))
    assert f"methods.{name}(" in page
    assert f"]({file}" in index
    assert f"`methods.{name}()`" in index
    assert f"methods/{file}" in (ROOT / "mkdocs.yml").read_text()


def test_the_command_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert [row["preset"] for row in rows] == [f"methods.{name}()" for name in METHODS]
    assert {row["learner"] for row in rows} >= {"gradient", "prototype"}
    assert run(["methods"]) == 0
    assert "Meta-SGD" in capsys.readouterr().out
