"""`distmeta adapt`: label a user's own images with a trained learner."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from distmeta.cli.output import WHICH, JsonOption, TrustOption, people_read, print_json, print_table, which_option
from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import UserError
from distmeta.core.files import read_file, reason, write_file
from distmeta.data.importers.base import MAX_IMAGE_BYTES
from distmeta.data.importers.decode import decode_images
from distmeta.data.importers.folder import SUFFIXES

EXAMPLES = """\b
Example:
  distmeta adapt runs/first_job --support my_letters --query unsorted --invert --out labels.csv
"""


def adapt(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint, or the folder of a run.")],
    support: Annotated[
        Path, typer.Option(metavar="DIR", help="Labelled examples: one sub-folder of images for each class.")
    ],
    query: Annotated[Path, typer.Option(metavar="DIR", help="Images to label.")],
    invert: Annotated[
        bool,
        typer.Option("--invert", help="Swap dark and light: for dark ink on light paper, where ink was light."),
    ] = False,
    which: Annotated[str, typer.Option(metavar="NAME", help=f"Checkpoint of the run: {', '.join(WHICH)}.")] = "latest",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Statistics of batch norm: of the images to label, taken together (transductive), or of the labelled "
            "ones alone (inductive). Default: as it was trained.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write file,label to this CSV file.")] = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Adapt a trained learner to a few labelled images of your own, and label others with it.

    The number of class folders must be the number of classes that the learner was trained for. Images of any size are
    scaled to the learner's input, in grey or in colour as it was trained.
    """
    chosen = which_option(which, checkpoint)
    classes = _class_folders(support)
    queries = _images_in(query)
    if not queries:
        raise UserError("holds no image", where=str(query), allowed=_kinds())
    if out is not None:
        _require_writable(out)
    from distmeta.adapt.load import load

    resume_collector()
    with people_read(as_json):
        learner = load(checkpoint, which=chosen, protocol=protocol, trust_code=trust_code)
        if learner.way not in (None, len(classes)):
            raise UserError(
                f"holds {len(classes)} class folders",
                where=str(support),
                allowed=f"{learner.way}, the number of classes that the learner was trained for",
            )
        files = [path for paths in classes.values() for path in paths]
        targets = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])
        shape = learner.input_shape
        predict = learner.adapt(_read(files, shape, invert), targets)
        names = list(classes)
        labels = [names[int(label)] for label in predict(_read(queries, shape, invert))]
    rows = [{"file": path.name, "label": label} for path, label in zip(queries, labels, strict=True)]
    if out is not None:
        _write(out, rows)
    if as_json:
        print_json({"checkpoint": checkpoint, "classes": names, "labels": {row["file"]: row["label"] for row in rows}})
    else:
        print_table(rows)


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Images by class, sorted by name."""
    children = [path for path in _children(folder, "one sub-folder of images for each class") if os.path.isdir(path)]
    if not children:
        raise UserError("holds no sub-folder", where=str(folder), allowed="one sub-folder of images for each class")
    classes = {child.name: _images_in(child) for child in children}
    for name, paths in classes.items():
        if not paths:
            raise UserError(f"class '{name}' holds no image", where=str(folder / name), allowed=_kinds())
    return classes


def _images_in(folder: Path) -> list[Path]:
    files = _children(folder, "a folder of images")
    return [path for path in files if path.suffix.lower() in SUFFIXES and os.path.isfile(path)]


def _children(folder: Path, allowed: str) -> list[Path]:
    """What a folder holds, sorted; without hidden files."""
    if not os.path.isdir(folder):
        raise UserError("no such folder", where=str(folder), allowed=allowed)
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=str(folder), allowed=allowed) from error


def _require_writable(out: Path) -> None:
    """Refuse a file that cannot be written before the learner is loaded."""
    if not os.path.isdir(out.parent):
        raise UserError("no such folder", where=str(out.parent), allowed="--out FILE in a folder that exists")
    if os.path.isdir(out):
        raise UserError("is a folder", where=str(out), allowed="--out FILE")
    if not os.access(out if os.path.exists(out) else out.parent, os.W_OK):
        raise UserError("cannot be written", where=str(out), allowed="--out FILE in a folder that can be written")


def _kinds() -> str:
    return ", ".join(sorted(SUFFIXES))


def _read(paths: list[Path], shape: tuple[int, ...], invert: bool) -> npt.NDArray[np.float32]:
    """Images in the learner's own form: [M, C, H, W] in [0, 1]."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise UserError(f"the learner takes inputs of shape {shape}", allowed="a learner of square images")
    names = [str(path) for path in paths]
    pixels = decode_images(
        names, lambda index: read_file(paths[index], MAX_IMAGE_BYTES), size=shape[1], grey=shape[0] == 1
    )
    images = pixels.astype(np.float32) / np.float32(255)
    return 1 - images if invert else images


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=["file", "label"])
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode(errors="surrogateescape"))  # the bytes of the file names, UTF-8 or not
