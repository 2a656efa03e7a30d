"""Import a table (csv, tsv, parquet, jsonl, Arrow) with a column of labels and inputs: texts, images or numbers.

Images are encoded bytes, or paths relative to the table that stay inside its folder. Vectors are one column of lists,
or several columns of numbers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file
from distmeta.data.importers.arrow import frame_of, load_table
from distmeta.data.importers.base import MAX_IMAGE_BYTES, ClassData, Importer, ImportOptions
from distmeta.data.importers.decode import decode_images
from distmeta.data.importers.labelled import class_data, classes_of, splits_of
from distmeta.data.manifest import Source, file_sha256
from distmeta.data.store import Examples


def read_table(source: Path, options: ImportOptions) -> ClassData:
    """Read a table; rows keep their order within a class.

    Args:
        source: The table; its suffix gives the format.
        options: One of `text_column` (default `text`), `image_column` and `inputs`, and `label_column`, `size`, `grey`,
            `split_column`, `splits`, `seed`, `fractions`.

    Raises:
        UserError: The table is damaged, a column is missing, a row has no label or example, an image cannot be decoded.
    """
    if options.text_column and options.image_column:
        raise UserError(
            "both --text-column and --image-column are given", where="data import table", allowed="one of them"
        )
    if options.inputs and (options.text_column or options.image_column):
        what = "--inputs and --text-column or --image-column are given"
        raise UserError(what, where="data import table", allowed="one of them")
    if options.inputs:
        return _read_inputs(source, options)
    if not options.image_column and (options.size is not None or options.grey):
        raise UserError("--size and --grey need --image-column", where="data import table")
    column_name = options.image_column or options.text_column or "text"
    texts_of = [options.label_column, *([] if options.image_column else [column_name]), *_split_columns(options)]
    table = load_table(source, [*texts_of, column_name], texts_of)
    labels = _strings(_column(table, options.label_column, source), options.label_column, source)
    classes = classes_of(labels, f"{source}, column '{options.label_column}'")
    column = _column(table, column_name, source)
    examples: Examples
    if options.image_column:
        examples = _images(column, classes.order, source, options)
    else:
        texts = _strings(column, column_name, source)
        examples = [texts[row] for row in classes.order]
    frame = frame_of(table, str(source), _split_columns(options))
    return ClassData(
        examples=examples,
        class_names=classes.names,
        class_counts=classes.counts,
        splits=splits_of(frame, classes, column=options.split_column, lists=options.splits, options=options),
        sources=[Source.of(source.name, file_sha256(source))],
    )


def _read_inputs(source: Path, options: ImportOptions) -> ClassData:
    """Read the columns `inputs`, whose values say of which kind they are."""
    texts = [options.label_column, *_split_columns(options)]
    names = list(dict.fromkeys([*texts, *options.inputs]))
    frame = frame_of(load_table(source, names, texts), str(source), names)
    sources = [Source.of(source.name, file_sha256(source))]
    return class_data(frame, options.inputs, options, sources)


def _split_columns(options: ImportOptions) -> list[str]:
    return [options.split_column] if options.split_column else []


def _column(table: Any, name: str, path: Path) -> Any:
    count = table.column_names.count(name)
    if count == 0:
        raise UserError(f"has no column '{name}'", where=str(path), allowed=nearest(name, table.column_names))
    if count > 1:
        raise UserError(f"has {count} columns '{name}'", where=str(path), allowed="one of that name")
    return table[name].combine_chunks()


def _strings(column: Any, name: str, path: Path) -> list[str]:
    try:
        values: list[str | None] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"column '{name}' holds {column.type}, not text: {error}", where=str(path)) from error
    for row, value in enumerate(values):
        if value is None or not value.strip():
            raise UserError(f"column '{name}' is empty in row {row}", where=str(path))
    return [str(value) for value in values]


def _images(column: Any, order: npt.NDArray[np.int64], path: Path, options: ImportOptions) -> npt.NDArray[np.uint8]:
    if pa.types.is_struct(column.type):  # the {bytes, path} of Hugging Face tables
        if column.type.get_field_index("bytes") < 0:
            raise UserError(
                f"column '{options.image_column}' holds {column.type}", where=str(path), allowed="bytes or paths"
            )
        column = column.field("bytes")
    is_path = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not (is_path or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise UserError(
            f"column '{options.image_column}' holds {column.type}", where=str(path), allowed="bytes or paths"
        )
    if column.null_count:
        raise UserError(f"column '{options.image_column}' has {column.null_count} empty rows", where=str(path))
    folder = Path(os.path.realpath(path.parent))

    def load(index: int) -> bytes:
        value = column[int(order[index])].as_py()
        return _read_inside(folder, value, names[index]) if is_path else bytes(value)

    names = [f"{path}, row {row}" + (f" ({column[int(row)].as_py()})" if is_path else "") for row in order]
    return decode_images(names, load, size=options.size, grey=options.grey)


def _read_inside(folder: Path, relative: str, name: str) -> bytes:
    path = Path(os.path.realpath(folder / relative))
    if not path.is_relative_to(folder):
        what, allowed = f"image path '{relative}' leaves the folder of the table", f"paths below {folder}"
        raise UserError(what, where=name, allowed=allowed)
    try:
        return read_file(path, MAX_IMAGE_BYTES)
    except UserError as error:
        raise UserError(f"the image cannot be decoded: {error.what}", where=name, allowed=error.allowed) from error


IMPORTER = Importer(
    read=read_table,
    description="table: a csv, tsv, parquet, jsonl or Arrow file with a label column and texts, images or numbers",
    options=frozenset(
        {
            "text_column",
            "image_column",
            "label_column",
            "inputs",
            "size",
            "grey",
            "split_column",
            "splits",
            "seed",
            "fractions",
        }
    ),
)
