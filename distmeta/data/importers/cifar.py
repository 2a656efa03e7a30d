"""CIFAR-FS and FC100: two few-shot class splits of the 60,000 images of CIFAR-100 (Krizhevsky 2009).

Reads `cifar100.parquet` (columns `label` and `image`, encoded) and `classes.json` (`fine`, the class names, and
`splits`, the lists of class names). Each store holds all 100 classes with all their 600 images, 3x32x32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distmeta.core.errors import UserError
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import Source, file_sha256
from distmeta.data.splits import by_name

TABLE_NAME, CLASSES_NAME = "cifar100.parquet", "classes.json"


def _read_classes(path: Path, split_set: str) -> tuple[list[str], dict[str, list[str]]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return raw["fine"], raw["splits"][split_set]
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}", where=str(path), allowed=f"a folder with {TABLE_NAME}, {CLASSES_NAME}"
        ) from error
    except (KeyError, TypeError) as error:
        raise UserError(f"has no 'fine' or no 'splits.{split_set}' list", where=str(path)) from error


def _read_table(path: Path) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], Any]:
    try:
        table = pq.read_table(path)
        return table["label"].to_numpy().astype(np.int64), table["image"].combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"cannot be read: {error}", where=str(path), allowed="a parquet file with label, image"
        ) from error
    except KeyError as error:
        raise UserError(f"has no column {error}", where=str(path), allowed="columns label, image") from error


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
    labels, column = _read_table(folder / TABLE_NAME)
    counts = np.bincount(labels, minlength=len(class_names))
    if len(counts) > len(class_names):
        raise UserError(f"label {labels.max()} has no name in {CLASSES_NAME}", where=str(folder / TABLE_NAME))
    if counts.min() < 1:
        raise UserError(f"class '{class_names[int(counts.argmin())]}' has no image", where=str(folder / TABLE_NAME))
    order = np.argsort(labels, kind="stable")
    images = decode_images(
        [f"{folder / TABLE_NAME}, row {row}" for row in order],
        lambda index: column[int(order[index])].as_py() or b"",
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
