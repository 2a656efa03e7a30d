"""Summaries and contact sheets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distmeta.cli.data import app
from distmeta.core.errors import UserError
from distmeta.data.inspect import contact_sheet, summary
from distmeta.data.store import ClassStore, write_store


def test_summary_of_images(store: ClassStore) -> None:
    result = json.loads(json.dumps(summary(store)))
    assert (result["num_examples"], result["num_classes"], result["shape"]) == (9, 3, [1, 2, 3])
    assert result["examples_per_class"] == {"min": 2, "median": 3.0, "max": 4}
    assert result["splits"] == {"fractions": {"train": 1, "val": 1, "test": 1}}
    assert result["pixel_mean"] == [round(26.5 / 255, 4)]


def test_summary_of_texts(tmp_path: Path) -> None:
    words = write_store(tmp_path / "words", ["a", "bb", "cccc"], class_names=["x"], class_counts=[3])
    assert summary(words)["characters"] == {"min": 1, "median": 2.0, "max": 4}
    with pytest.raises(UserError, match=r"sheet.png: data 'words' holds text examples; allowed: a file .txt or .md"):
        contact_sheet(words, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_contact_sheet_of_texts(tmp_path: Path) -> None:
    names = [f"class {index:02d}" for index in range(30)]
    texts = [f"{name}:\n text {example} {'x' * 300}" for name in names for example in range(3)]
    store = write_store(tmp_path / "many", texts, class_names=names, class_counts=[3] * 30)
    contact_sheet(store, tmp_path / "new" / "sheet.txt", per_class=2)
    lines = (tmp_path / "new" / "sheet.txt").read_text(encoding="utf-8").splitlines()
    heads = [line for line in lines if line.startswith("# ")]
    assert len(heads) == 12
    assert (heads[0], heads[-1]) == ("# class 00 (3 texts)", "# class 29 (3 texts)")
    shown = [line for line in lines if line.startswith("- ")]
    assert len(shown) == 24
    assert shown[0].startswith("- class 00: text 0 xxx") and shown[0].endswith("x...")
    assert shown[-1].startswith("- class 29: text 1 ")
    shown_by_command = CliRunner().invoke(app, ["inspect", str(store.path), "--sheet", str(tmp_path / "b.md")])
    assert shown_by_command.exit_code == 0
    assert (tmp_path / "b.md").read_text(encoding="utf-8").count("\n- ") == 36


def test_contact_sheet_shows_classes_in_rows(store: ClassStore, tmp_path: Path) -> None:
    contact_sheet(store, tmp_path / "new" / "sheet.png", per_class=3)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        scale = 19  # 3 pixels to at least 56
        row, column = 2 * scale + 2, 3 * scale + 2
        assert sheet.size == (2 + 3 * column, 2 + 3 * row)
        assert sheet.getpixel((2, 2)) == (0, 0, 0)  # example 0
        assert sheet.getpixel((2 + 2 * column, 2)) == (96, 96, 96)  # class 0 has two examples
        assert sheet.getpixel((2, 2 + 2 * row)) == (30, 30, 30)  # the first pixel of example 5, the first of class 2


def test_contact_sheet_samples_many_classes_evenly(tmp_path: Path) -> None:
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1) * np.ones((1, 1, 56, 56), dtype=np.uint8)
    names = [f"{index}" for index in range(100)]
    store = write_store(tmp_path / "many", images, class_names=names, class_counts=[1] * 100)
    contact_sheet(store, tmp_path / "sheet.png", per_class=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = [sheet.getpixel((2, 2 + 58 * row)) for row in range(12)]
        assert sheet.size[1] == 2 + 12 * 58
    assert [row[0] for row in rows] == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]


def test_summary_of_numbers_too_large_to_square(tmp_path: Path) -> None:
    rows = np.array([[-1e300, 1.0], [1e300, 2.0]])
    store = write_store(tmp_path / "large", rows, class_names=["x"], class_counts=[2], num_targets=1)
    result = summary(store)
    assert result["mean"] == [0.0, 1.5]
    assert result["std"] == [np.inf, 0.5]
