"""The `distmeta data` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distmeta.cli.data import app
from distmeta.core.errors import UserError


def _run(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    output = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(output, dict)
    return output


def test_commands(home: Path, image_folder: Path, tmp_path: Path) -> None:
    imported = _run(
        "import", "images", image_folder, "--name", "p", "--size", "4", "--grey", "--fractions", "0.5,0,0.5"
    )
    assert (imported["name"], imported["shape"]) == ("p", [1, 4, 4])
    assert imported["splits"] == {"fractions": {"train": 1, "val": 0, "test": 1}}
    assert [row["name"] for row in _run("list")["stores"]] == ["p"]
    inspected = _run("inspect", "p", "--verify", "--sheet", tmp_path / "s.png")
    assert inspected["sha256"] == imported["sha256"]
    assert (tmp_path / "s.png").is_file()


def test_tables_for_people(home: Path, image_folder: Path) -> None:
    runner = CliRunner()
    runner.invoke(app, ["import", "images", str(image_folder)], catch_exceptions=False)
    assert "pets" in runner.invoke(app, ["list"], catch_exceptions=False).stdout
    assert "num_examples" in runner.invoke(app, ["inspect", "pets"], catch_exceptions=False).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "image", "x"], r"no importer 'image'; allowed: did you mean 'images'\?"),
        (["import", "images", "x"], "x: no such file or folder"),
        (["import", "images", "x", "--fractions", "0.5"], "--fractions: '0.5'"),
        (["inspect", "omniglo"], r"did you mean 'omniglot'\?"),
        (["fetch", "fashion"], r"no data 'fashion' to download; allowed: did you mean 'fashion_mnist'\?"),
    ],
)
def test_bad_commands_raise_one_line(home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
