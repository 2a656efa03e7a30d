"""Sentences that `distmeta adapt` learns from and labels: tables with a column of texts and one of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distmeta.core.errors import UserError
from distmeta.data.importers.arrow import frame_of, load_table
from distmeta.data.importers.base import require_class_names
from distmeta.data.importers.columns import Frame, examples_of, labels


def labelled_texts(path: Path, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """The texts and the labels of a table.

    Raises:
        UserError: No such table, it is damaged, a column is missing, or a value is empty or no text.
    """
    frame = _frame(path, [text_column, label_column])
    names = labels(frame, label_column)
    require_class_names(sorted(set(names)), f"{frame.where}, column '{label_column}'")
    return _texts(frame, text_column), names


def unlabelled_texts(path: Path, text_column: str) -> list[str]:
    """The texts of a table; other columns are not read.

    Raises:
        UserError: As for `labelled_texts`.
    """
    return _texts(_frame(path, [text_column]), text_column)


def prediction_rows(texts: list[str], classes: list[str], confidences: Any) -> list[dict[str, Any]]:
    """Text, label, its confidence, and the label that is next to it (none where there is one class), as rows.

    Args:
        texts: Q texts.
        classes: Names of C classes.
        confidences: [Q, C].
    """
    rows = []
    for text, row in zip(texts, confidences, strict=True):
        best, *others = np.argsort(-row, kind="stable").tolist()
        second = classes[others[0]] if others else None
        rows.append({"text": text, "label": classes[best], "confidence": float(row[best]), "second": second})
    return rows


def _frame(path: Path, columns: list[str]) -> Frame:
    return frame_of(load_table(path, columns, columns), str(path), columns)


def _texts(frame: Frame, column: str) -> list[str]:
    texts = examples_of(frame, [column], np.arange(frame.num_rows), size=None, grey=None)
    if not isinstance(texts, list):
        raise UserError(f"column '{column}' holds no texts", where=frame.where, allowed="another --text-column")
    return texts
