"""Read tables: csv, tsv, parquet, jsonl and Arrow files, and folders saved by Hugging Face `datasets`.

All of them hold plain data; nothing in them is executed. A folder of `Dataset.save_to_disk` has `state.json`, which
names its Arrow files, and `dataset_info.json`; one of `DatasetDict.save_to_disk` has `dataset_dict.json` and a folder
for each split.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file
from distmeta.data.importers.columns import Frame
from distmeta.data.manifest import Source, file_sha256

MAX_ROWS = 100_000_000
"""Rows of the longest parquet or Arrow file that is read; a small file may claim any number."""
SPLIT_COLUMN = "split"
"""Column of the rows of a dictionary of data sets: the name of the data set that they are from."""
_MAX_JSON_BYTES = 64 << 20
_DICTIONARY, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def load_table(path: Path, columns: Sequence[str], text_columns: Sequence[str]) -> Any:
    """Read the table of one file.

    Args:
        path: The file; its suffix gives the format.
        columns: The columns that are needed.
        text_columns: Those of them that csv files hold as text even if it looks like numbers.

    Raises:
        UserError: No such format, no file, a damaged one, or one without rows.
    """
    convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in text_columns})
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    tabs = pa.csv.ParseOptions(newlines_in_values=True, delimiter="\t")
    readers: dict[str, Callable[[IO[bytes]], Any]] = {
        ".csv": lambda file: pa.csv.read_csv(file, parse_options=parse, convert_options=convert),
        ".tsv": lambda file: pa.csv.read_csv(file, parse_options=tabs, convert_options=convert),
        ".parquet": _read_parquet,
        ".jsonl": lambda file: _read_jsonl(file, columns),
        ".arrow": _read_arrow,
        ".feather": _read_arrow,
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


def is_table(path: Path) -> bool:
    """Whether the suffix of a path is that of a table."""
    return path.suffix.lower() in (".csv", ".tsv", ".parquet", ".jsonl", ".arrow", ".feather")


def frame_of(table: Any, where: str, names: Sequence[str]) -> Frame:
    """The columns `names` of an Arrow table, with the class names that Hugging Face keeps in its metadata.

    Raises:
        UserError: A column is missing or there are several of its name.
    """
    columns = {}
    for name in names:
        count = table.column_names.count(name)
        if count == 0:
            raise UserError(f"has no column '{name}'", where=where, allowed=nearest(name, table.column_names))
        if count > 1:
            raise UserError(f"has {count} columns '{name}'", where=where, allowed="one of that name")
        columns[name] = _plain(table[name])
    return Frame(where, table.num_rows, columns, _label_names((table.schema.metadata or {}).get(b"huggingface")))


def load_saved(folder: Path) -> tuple[Any, Source]:
    """Read the rows of a folder written by `save_to_disk`; those of a dictionary get a column `split`.

    Returns:
        A pyarrow table, and the digest of all its files.

    Raises:
        UserError: No such folder, or a damaged one.
    """
    files: list[Path] = []
    if os.path.isfile(folder / _DICTIONARY):
        splits = _json(folder / _DICTIONARY).get("splits")
        tables = []
        for split in _names(splits, folder / _DICTIONARY, "splits"):
            table = _saved_table(folder / split, files)
            if SPLIT_COLUMN in table.column_names:
                table = table.drop_columns([SPLIT_COLUMN])
            tables.append(table.append_column(SPLIT_COLUMN, pa.array([split] * table.num_rows, pa.string())))
        try:
            table = pa.concat_tables(tables)
        except (ValueError, pa.ArrowException) as error:
            raise UserError(f"the splits have different columns: {error}", where=str(folder)) from error
    elif os.path.isfile(folder / _STATE):
        table = _saved_table(folder, files)
    else:
        allowed = f"a folder written by `save_to_disk`, with {_STATE} or {_DICTIONARY}"
        raise UserError("holds no saved data set", where=str(folder), allowed=allowed)
    if table.num_rows == 0:
        raise UserError("holds no row", where=str(folder))
    combined = hashlib.sha256()
    for file in files:
        combined.update(os.fsencode(file.relative_to(folder).as_posix()) + b"\0" + bytes.fromhex(file_sha256(file)))
    return table, Source.of(f"{folder.resolve().name}/ ({len(files)} files)", combined.hexdigest())


def _saved_table(folder: Path, files: list[Path]) -> Any:
    """The table of one data set; the files that were read are added to `files`."""
    entries = _json(folder / _STATE).get("_data_files")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError("'_data_files' is no list of files", where=str(folder / _STATE))
    names = _names([entry.get("filename") for entry in entries], folder / _STATE, "_data_files")
    tables = []
    for name in names:
        files.append(folder / name)
        try:
            with files[-1].open("rb") as file:
                tables.append(_read_arrow(file))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"cannot be read: {error}", where=str(folder / name)) from error
    info = _json(folder / _INFO) if os.path.isfile(folder / _INFO) else {}
    try:
        table = pa.concat_tables(tables)
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"its files have different columns: {error}", where=str(folder)) from error
    return table.replace_schema_metadata({b"huggingface": json.dumps({"info": info}).encode()} if info else None)


def _names(values: object, where: Path, field: str) -> list[str]:
    """Names of files or folders beside `where`, one or more."""
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"'{field}' is no list of names", where=str(where))
    for value in values:
        if value in ("", ".", "..") or "/" in value or "\\" in value or "\0" in value:
            raise UserError(f"'{value}' leaves the folder", where=str(where), allowed="names of files beside it")
    return values


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_file(path, _MAX_JSON_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise UserError("holds no JSON object", where=str(path))
    return content


def _plain(column: Any) -> Any:
    """A column without extension types."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _label_names(metadata: bytes | None) -> Mapping[str, Sequence[str]]:
    """Names of the classes of integer columns, as Hugging Face keeps them; none if the metadata are of another form."""
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
        return {
            str(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def _read_arrow(file: IO[bytes]) -> Any:
    """An Arrow IPC file or stream. Its content is checked, because offsets in it could point anywhere."""
    start = file.read(6)
    file.seek(0)
    reader = pa.ipc.open_file(file) if start == b"ARROW1" else pa.ipc.open_stream(file)
    with _sizes_checked():
        table = reader.read_all()
    _check_rows(table.num_rows)
    table.validate(full=True)
    return table


def _read_parquet(file: IO[bytes]) -> Any:
    parquet = pa.parquet.ParquetFile(file)
    _check_rows(parquet.metadata.num_rows)
    with _sizes_checked():
        return parquet.read()


@contextlib.contextmanager
def _sizes_checked() -> Iterator[None]:
    """Damaged metadata may give any size: what cannot be allocated is no reason to end as out of memory."""
    try:
        yield
    except MemoryError as error:
        raise ValueError("it asks for more memory than there is") from error


def _check_rows(num_rows: int) -> None:
    if num_rows > MAX_ROWS:
        raise ValueError(f"it has {num_rows} rows, more than {MAX_ROWS}")


def _read_jsonl(file: IO[bytes], columns: Sequence[str]) -> Any:
    """Read some columns of a table of JSON objects, one a line; the others have nulls.

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
