"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 3x32x32, of ten classes.

Reads `cifar10.parquet` (columns `split`: train or test, `label`, and `image`, encoded) and `classes.json` (`classes`,
their names).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from distmeta.core.errors import UserError
from distmeta.core.files import read_file
from distmeta.data.importers.base import ClassData, Importer, ImportOptions, require_class_names
from distmeta.data.importers.cifar import CLASSES_NAME, MAX_CLASSES_BYTES, read_table
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import PARTS, Source, file_sha256
from distmeta.data.splits import fractions

TABLE_NAME = "cifar10.parquet"


class _Classes(BaseModel):
    """Content of `classes.json`, as far as it is used."""

    classes: list[str]


def _read_classes(path: Path) -> list[str]:
    content = read_file(path, MAX_CLASSES_BYTES)
    try:
        names = _Classes.model_validate(json.loads(content.decode())).classes
    except ValidationError as error:
        raise UserError("has no 'classes' list of names", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    require_class_names(names, str(path))
    if not names or len(set(names)) != len(names):
        raise UserError("'classes' is empty or holds a name twice", where=str(path))
    return names


def read_cifar10(source: Path, options: ImportOptions) -> ClassData:
    """Read CIFAR-10, the training images of each class before its test images.

    Args:
        source: The folder of the two files.
        options: `size`, `grey` and `seed`.

    Raises:
        UserError: A file is missing or damaged, or the two files do not match.
    """
    path = source / TABLE_NAME
    class_names = _read_classes(source / CLASSES_NAME)
    labels, column, table = read_table(path, len(class_names))
    try:
        names = table["split"].cast(pa.string()).to_pylist()  # from dictionaries, too
    except (KeyError, pa.ArrowException) as error:
        raise UserError("has no column 'split' of texts", where=str(path)) from error
    if unknown := set(names) - set(PARTS):
        raise UserError(f"unknown split {unknown.pop()!r}", where=str(path), allowed=" or ".join(PARTS))
    is_test = np.array([name == "test" for name in names], dtype=bool)
    counts = {
        part: np.bincount(labels[is_test == (part == "test")], minlength=len(class_names)).tolist() for part in PARTS
    }
    totals = [sum(both) for both in zip(*counts.values(), strict=True)]
    if min(totals) < 1:
        raise UserError(f"class '{class_names[totals.index(0)]}' has no image", where=str(path))
    order = np.lexsort((is_test, labels))
    images = decode_images(
        [f"{path}, row {row}" for row in order],
        lambda index: column[int(order[index])].as_py(),
        size=options.size,
        grey=options.grey,
    )
    return ClassData(
        examples=images,
        class_names=class_names,
        class_counts=totals,
        splits=fractions(len(class_names), seed=options.seed),
        sources=[Source(name=name, sha256=file_sha256(source / name)) for name in (TABLE_NAME, CLASSES_NAME)],
        parts=counts,
    )


IMPORTER = Importer(
    read=read_cifar10,
    description=f"CIFAR-10: a folder with {TABLE_NAME} and {CLASSES_NAME}",
    options=frozenset({"size", "grey", "seed"}),
    raw_folder="cifar10",
)
