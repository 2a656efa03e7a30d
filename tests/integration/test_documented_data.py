"""The examples of "Bring your own data" in docs/data.md run as they are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distmeta.cli.data import app
from distmeta.data.catalog import list_stores

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def blocks(language: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition("## Bring your own data\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.mark.thorough
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    images, vectors, table = blocks("python")
    exec(compile(images, "images", "exec"), {})
    assert "image (1, 28, 28) 60\n{'train': 6, 'val': 3, 'test': 3}" in capsys.readouterr().out
    for name, source in (("vectors", vectors), ("table", table)):
        values: dict[str, object] = {}
        exec(compile(source, name, "exec"), values)
        assert values["result"].steps == 20  # type: ignore[attr-defined]
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("distmeta data")]
    assert len(commands) == 2
    for command in commands:
        assert CliRunner().invoke(app, shlex.split(command)[2:], catch_exceptions=False).exit_code == 0
    assert {"letters", "flowers", "sensors"} <= set(list_stores())
