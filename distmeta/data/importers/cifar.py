"""CIFAR-FS and FC100: two few-shot class splits of the 60,000 images of CIFAR-100 (Krizhevsky 2009).

Reads `cifar100.parquet` (columns `label` and `image`, encoded) and `classes.json` (`fine`, the class names, and
`splits`, the lists of class names). Each store holds all 100 classes with all their 600 images, 3x32x32.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from distmeta.core.errors import UserError
from distmeta.core.files import read_file
from distmeta.data.importers.base import ClassData, Importer, ImportOptions, require_class_names
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import Source, file_sha256
from distmeta.data.splits import by_name

TABLE_NAME, CLASSES_NAME = "cifar100.parquet", "classes.json"
MAX_CLASSES_BYTES = 16 << 20


class _Classes(BaseModel):
    """Content of `classes.json`, as far as it is used."""

    fine: list[str]
    splits: dict[str, dict[str, list[str]]]


def _read_classes(path: Path, split_set: str) -> tuple[list[str], dict[str, list[str]]]:
    content = read_file(path, MAX_CLASSES_BYTES)
    try:
        classes = _Classes.model_validate(json.loads(content.decode()))
        lists = classes.splits[split_set]
    except (ValidationError, KeyError) as error:
        raise UserError(f"has no 'fine' or no 'splits.{split_set}' lists of names", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    require_class_names(classes.fine, str(path))
    if not classes.fine or len(set(classes.fine)) != len(classes.fine):
        raise UserError("'fine' is empty or holds a name twice", where=str(path))
    return classes.fine, lists


def read_table(path: Path, num_classes: int) -> tuple[npt.NDArray[np.int64], Any, Any]:
    """Labels, encoded images, and the table that they are of.

    Raises:
        UserError: The file is missing or damaged, or a label has no name.
    """
    allowed = "a parquet file with the columns label (whole numbers) and image (bytes)"
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed=allowed)
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
        labels, images = table["label"].cast(pa.int64()), table["image"].combine_chunks()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), allowed=allowed) from error
    except KeyError as error:
        raise UserError(f"has no column, or several: {error.args[0]}", where=str(path), allowed=allowed) from error
    if not pa.types.is_binary(images.type) or labels.null_count or images.null_count:
        what = f"holds images of type {images.type}, {labels.null_count} empty labels, {images.null_count} empty images"
        raise UserError(what, where=str(path), allowed=allowed)
    numbers: npt.NDArray[np.int64] = labels.to_numpy()
    for label in (numbers.min(initial=0), numbers.max(initial=0)):
        if not 0 <= label < num_classes:
            raise UserError(f"label {label} has no name in {CLASSES_NAME}", where=str(path))
    return numbers, images, table


def read_cifar(source: Path, options: ImportOptions, split_set: str) -> ClassData:
    """Read CIFAR-100 with the class split `split_set`.

    Args:
        source: The folder of the two files, or its parent if the folder is called `cifar100`.
        options: `size` and `grey`.
        split_set: `cifar_fs` or `fc100`.

    Raises:
        UserError: A file is missing or damaged, or the two files do not match.
    """
    folder = source / "cifar100" if (source / "cifar100" / TABLE_NAME).is_file() else source
    class_names, lists = _read_classes(folder / CLASSES_NAME, split_set)
    labels, column, _ = read_table(folder / TABLE_NAME, len(class_names))
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < 1:
        raise UserError(f"class '{class_names[int(counts.argmin())]}' has no image", where=str(folder / TABLE_NAME))
    order = np.argsort(labels, kind="stable")
    images = decode_images(
        [f"{folder / TABLE_NAME}, row {row}" for row in order],
        lambda index: column[int(order[index])].as_py(),
        size=options.size,
        grey=options.grey,
    )
    return ClassData(
        examples=images,
        class_names=class_names,
        class_counts=counts.tolist(),
        splits=by_name(split_set, lists, class_names, str(folder / CLASSES_NAME)),
        sources=[Source(name=name, sha256=file_sha256(folder / name)) for name in (TABLE_NAME, CLASSES_NAME)],
    )


def _importer(split_set: str, title: str) -> Importer:
    return Importer(
        read=lambda source, options: read_cifar(source, options, split_set),
        description=f"{title}: a folder with {TABLE_NAME} and {CLASSES_NAME}",
        options=frozenset({"size", "grey"}),
        raw_folder="cifar100",
    )


CIFAR_FS = _importer("cifar_fs", "CIFAR-FS")
FC100 = _importer("fc100", "FC100")
