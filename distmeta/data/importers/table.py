"""Import a csv, tsv, parquet or jsonl table with a column of texts or images and a column of labels.

Images are encoded bytes, or paths relative to the table that stay inside its folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file
from distmeta.data.importers.base import MAX_IMAGE_BYTES, ClassData, Importer, ImportOptions, require_class_names
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import Source, file_sha256
from distmeta.data.splits import fractions
from distmeta.data.store import Examples

MAX_ROWS = 100_000_000
"""Rows of the longest parquet file that is read; a small file may claim any number."""


def read_table(source: Path, options: ImportOptions) -> ClassData:
    """Read a table; rows keep their order within a class.

    Args:
        source: The table; its suffix gives the format.
        options: One of `text_column` (default `text`) and `image_column`, and `label_column`, `size`, `grey`, `seed`,
            `fractions`.

    Raises:
        UserError: The table is damaged, a column is missing, a row has no label or example, an image cannot be decoded.
    """
    if options.text_column and options.image_column:
        raise UserError(
            "both --text-column and --image-column are given", where="data import table", allowed="one of them"
        )
    if not options.image_column and (options.size is not None or options.grey):
        raise UserError("--size and --grey need --image-column", where="data import table")
    column_name = options.image_column or options.text_column or "text"
    table = _load(source, [options.label_column, column_name], is_text=not options.image_column)
    labels = _strings(_column(table, options.label_column, source), options.label_column, source)
    names = set(labels)
    require_class_names(sorted(names), f"{source}, column '{options.label_column}'")
    class_names = _sorted_names(names)
    position = {name: index for index, name in enumerate(class_names)}
    classes = np.asarray([position[label] for label in labels], dtype=np.int64)
    order = np.argsort(classes, kind="stable")
    column = _column(table, column_name, source)
    examples: Examples
    if options.image_column:
        examples = _images(column, order, source, options)
    else:
        texts = _strings(column, column_name, source)
        examples = [texts[row] for row in order]
    return ClassData(
        examples=examples,
        class_names=class_names,
        class_counts=np.bincount(classes).tolist(),
        splits=fractions(len(class_names), options.fractions, options.seed),
        sources=[Source.of(source.name, file_sha256(source))],
    )


def _load(path: Path, columns: list[str], *, is_text: bool) -> Any:
    """Read the table; labels, and texts if it has any, are read as text even if they look like numbers."""
    types = {name: pa.string() for name in (columns if is_text else columns[:1])}
    convert = pa.csv.ConvertOptions(column_types=types)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    tabs = pa.csv.ParseOptions(newlines_in_values=True, delimiter="\t")
    readers: dict[str, Callable[[IO[bytes]], Any]] = {
        ".csv": lambda file: pa.csv.read_csv(file, parse_options=parse, convert_options=convert),
        ".tsv": lambda file: pa.csv.read_csv(file, parse_options=tabs, convert_options=convert),
        ".parquet": _read_parquet,
        ".jsonl": lambda file: _read_jsonl(file, columns),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UserError(f"a table of kind '{suffix}'", where=str(path), allowed=", ".join(readers))
    if not os.path.isfile(path):
        raise UserError("is not a file", where=str(path), allowed=f"a file: {', '.join(readers)}")
    try:
        with path.open("rb") as file:
            table = readers[suffix](file)
        num_columns = len(table.column_names)  # here, because it decodes the names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    if table.num_rows == 0 or num_columns == 0:
        raise UserError("holds no row", where=str(path))
    return table


def _read_parquet(file: IO[bytes]) -> Any:
    parquet = pa.parquet.ParquetFile(file)
    if parquet.metadata.num_rows > MAX_ROWS:
        raise ValueError(f"it has {parquet.metadata.num_rows} rows, more than {MAX_ROWS}")
    return parquet.read()


def _read_jsonl(file: IO[bytes], columns: list[str]) -> Any:
    """Read two columns of a table of JSON objects, one a line; the others have nulls.

    By Python's parser, because deeply nested JSON overflows the stack of pyarrow's, which ends the process.
    """
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    names: dict[str, None] = {}
    num_rows = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} holds no JSON object")
        names.update(dict.fromkeys(row))
        num_rows += 1
        for name, column in values.items():
            column.append(_as_text(row.get(name), f"line {number}, '{name}'"))
    arrays = [pa.array(values.get(name, [None] * num_rows), pa.string()) for name in names]
    return pa.table(arrays, names=list(names))


def _as_text(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value).removesuffix(".0")
    raise ValueError(f"{where} is no text")


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


def _sorted_names(names: set[str]) -> list[str]:
    """In numerical order if all names are numbers, otherwise in alphabetical order."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


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
    description="table: a csv, tsv, parquet or jsonl file with a label column and a text or image column",
    options=frozenset({"text_column", "image_column", "label_column", "size", "grey", "seed", "fractions"}),
)
