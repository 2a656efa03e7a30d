"""Summary of a store's contents, and a contact sheet of its images or texts."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distmeta.core.errors import UserError
from distmeta.core.files import reason, write_file
from distmeta.data.manifest import LAYOUTS
from distmeta.data.store import ClassStore

_SAMPLE_EXAMPLES = 2000  # evenly spaced, for the pixel statistics
_SAMPLE_BYTES = 64 << 20  # fewer examples of large images
_MAX_NUMBERS = 32  # of an example, whose statistics are shown
_MAX_SHEET_PIXELS = 100_000_000
_MAX_SHEET_CLASSES = 12
_MAX_SHEET_CHARACTERS = 300  # of one text
_TEXT_SUFFIXES = (".txt", ".md")
_GAP_PIXELS = 2
_MIN_TILE_PIXELS = 56  # smaller images are enlarged by an integer factor
_BACKGROUND_GREY = 96


def summary(store: ClassStore) -> dict[str, Any]:
    """Summarise a store as a JSON object.

    Returns:
        name, kind, shape, num_examples, num_classes, examples_per_class {min, median, max}, splits {set: {split:
        classes}}, num_bytes, sha256, provenance; for images also pixel_mean and pixel_std per channel (of [0, 1]
        values, over at most 2,000 examples or 64 MiB), for texts characters {min, median, max}, for vectors and tables
        the mean and the standard deviation of each number of an example (up to 32), over the same sample.
    """
    manifest = store.manifest
    result: dict[str, Any] = {
        "name": store.name,
        "path": str(store.path),
        "kind": store.kind,
        "shape": list(store.shape),
        "num_examples": store.num_examples,
        "num_classes": len(store.class_names),
        "examples_per_class": _spread(manifest.class_counts),
        "splits": {
            set_name: {split: len(classes) for split, classes in split_set.items()}
            for set_name, split_set in store.splits.items()
        },
        "num_bytes": manifest.examples.num_bytes,
        "sha256": manifest.examples.sha256,
        "provenance": manifest.provenance.model_dump(),
    }
    sample = max(1, min(_SAMPLE_EXAMPLES, _SAMPLE_BYTES // store.manifest.width))
    rows = np.unique(np.linspace(0, store.num_examples - 1, sample).astype(np.int64))
    if store.kind == "image":
        pixels = store.images[rows] / 255.0
        result["pixel_mean"] = [round(float(value), 4) for value in pixels.mean((0, 2, 3))]
        result["pixel_std"] = [round(float(value), 4) for value in pixels.std((0, 2, 3))]
    elif store.kind in LAYOUTS:
        numbers = (store.vectors if store.kind == "vector" else store.rows)[rows, :_MAX_NUMBERS].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # sums of numbers as large as a damaged store may hold
            moments = {"mean": numbers.mean(0), "std": numbers.std(0)}
        result |= {name: [float(f"{value:.4g}") for value in values] for name, values in moments.items()}
    else:
        result["characters"] = _spread([len(store.texts[int(row)].as_py()) for row in rows])
    return result


def contact_sheet(store: ClassStore, path: Path, *, per_class: int = 10) -> None:
    """Write some examples of each of up to 12 evenly spaced classes: rows of images as a PNG, or texts as a text file.

    Args:
        store: A store of images or texts.
        path: The file to write: a PNG, or `.txt` or `.md` for texts.
        per_class: Maximum number of examples of a class.

    Raises:
        UserError: The store holds numbers or images of other than 1 or 3 channels, the file is of the wrong kind, the
            sheet would be too large, or it cannot be written.
    """
    if store.kind == "text":
        if path.suffix.lower() not in _TEXT_SUFFIXES:
            what, allowed = f"data '{store.name}' holds text examples", f"a file {' or '.join(_TEXT_SUFFIXES)}"
            raise UserError(what, where=str(path), allowed=allowed)
        _write(path, _text_sheet(store, per_class).encode())
        return
    images = store.images
    if store.shape[0] not in (1, 3):
        what = f"holds images of {store.shape[0]} channels"
        raise UserError(what, where=f"data '{store.name}'", allowed="1 or 3 channels for a contact sheet")
    classes = _sheet_classes(store)
    _, height, width = store.shape
    scale = max(1, -(-_MIN_TILE_PIXELS // max(height, width)))
    step_y, step_x = height * scale + _GAP_PIXELS, width * scale + _GAP_PIXELS
    size = (per_class * step_x + _GAP_PIXELS, len(classes) * step_y + _GAP_PIXELS)
    if math.prod(size) > _MAX_SHEET_PIXELS:
        allowed = f"at most {_MAX_SHEET_PIXELS} pixels: a smaller --per-class"
        raise UserError(f"the contact sheet has {size[0]} x {size[1]} pixels", where="--sheet", allowed=allowed)
    sheet = Image.new("RGB", size, (_BACKGROUND_GREY,) * 3)
    for row, index in enumerate(classes):
        start, stop = store.class_offsets[index : index + 2]
        for column, example in enumerate(range(start, min(stop, start + per_class))):
            tile = np.broadcast_to(images[example].transpose(1, 2, 0), (height, width, 3))
            picture = Image.fromarray(np.ascontiguousarray(tile)).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(picture, (_GAP_PIXELS + column * step_x, _GAP_PIXELS + row * step_y))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    _write(path, buffer.getvalue())


def _sheet_classes(store: ClassStore) -> list[int]:
    last = len(store.class_names) - 1
    return [int(index) for index in np.unique(np.linspace(0, last, _MAX_SHEET_CLASSES).astype(np.int64))]


def _text_sheet(store: ClassStore, per_class: int) -> str:
    """One heading for each class, and one line for each text."""
    lines = []
    for index in _sheet_classes(store):
        start, stop = (int(offset) for offset in store.class_offsets[index : index + 2])
        lines += [f"# {store.class_names[index]} ({stop - start} texts)", ""]
        for row in range(start, min(stop, start + per_class)):
            text = " ".join(store.texts[row].as_py().split())
            lines.append(f"- {text if len(text) <= _MAX_SHEET_CHARACTERS else text[:_MAX_SHEET_CHARACTERS] + '...'}")
        lines.append("")
    return "\n".join(lines)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder cannot be made: {reason(error)}", where=str(path.parent)) from error
    write_file(path, content)


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
