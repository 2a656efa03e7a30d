"""Summaries and contact sheets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

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
    made = write_store(tmp_path / "words", ["a", "bb", "cccc"], class_names=["x"], class_counts=[3])
    assert summary(made)["characters"] == {"min": 1, "median": 2.0, "max": 4}
    with pytest.raises(UserError, match="holds text examples"):
        contact_sheet(made, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_contact_sheet_shows_classes_in_rows(store: ClassStore, tmp_path: Path) -> None:
    contact_sheet(store, tmp_path / "new" / "sheet.png", classes=[2, 0], per_class=3)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        scale = 19  # 3 pixels to at least 56
        assert sheet.size == (2 + 3 * (3 * scale + 2), 2 + 2 * (2 * scale + 2))
        assert sheet.getpixel((2, 2)) == (30, 30, 30)  # the first pixel of example 5, the first of class 2
        assert sheet.getpixel((2, 2 + 2 * scale + 2)) == (0, 0, 0)  # example 0
        assert sheet.getpixel((2 + 2 * (3 * scale + 2), 2 + 2 * scale + 2)) == (96, 96, 96)  # class 0 has two examples
