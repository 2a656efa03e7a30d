"""Columns of labelled data, from whatever library: labels, numbers, vectors, texts and images of their values.

A column is a pyarrow ChunkedArray, a numpy array or any other sequence. Errors name row and column.

Shapes: M rows, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from PIL import Image

from distmeta.core.errors import UserError, nearest
from distmeta.data.importers.decode import decode_images
from distmeta.data.importers.pixels import picture
from distmeta.data.manifest import Kind

Rows = npt.NDArray[np.int64]
# What reading a value of another library's data set may raise.
_VALUE_ERRORS = (TypeError, ValueError, RuntimeError, OverflowError, LookupError, pa.ArrowException)


@dataclass(frozen=True)
class Frame:
    """Rows of labelled data.

    Attributes:
        where: Name of the data in messages.
        num_rows: M.
        columns: {name: M values}.
        label_names: {column: names of its classes}, for columns of integers that have names.
    """

    where: str
    num_rows: int
    columns: Mapping[str, Any]
    label_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def column(self, name: str) -> Any:
        """The values of a column.

        Raises:
            UserError: No such column.
        """
        if name not in self.columns:
            raise UserError(f"has no column '{name}'", where=self.where, allowed=nearest(name, self.columns))
        return self.columns[name]

    def place(self, row: int, column: str) -> str:
        """Row and column, for messages."""
        return f"{self.where}, row {row}, column '{column}'"


def labels(frame: Frame, name: str) -> list[str]:
    """The M labels of a column as texts; integers that have names are replaced by them.

    Raises:
        UserError: No such column, or a value that is empty or neither a text nor an integer.
    """
    values, names = _listed(frame, name), frame.label_names.get(name)
    return [_label(value, names, frame, row, name) for row, value in enumerate(values)]


def _listed(frame: Frame, name: str) -> list[Any]:
    column = frame.column(name)
    try:
        values = column.to_pylist() if isinstance(column, pa.ChunkedArray) else [_plain(value) for value in column]
    except _VALUE_ERRORS as error:
        raise UserError(f"column '{name}' cannot be read: {error}", where=frame.where) from error
    if len(values) != frame.num_rows:
        raise UserError(f"column '{name}' has {len(values)} of {frame.num_rows} rows", where=frame.where)
    return values


def _plain(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _label(value: Any, names: Sequence[str] | None, frame: Frame, row: int, column: str) -> str:
    try:
        value = value.item() if hasattr(value, "item") else value  # a scalar of numpy or torch
    except _VALUE_ERRORS as error:
        raise UserError(f"is no single label: {error}", where=frame.place(row, column)) from error
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise UserError("is empty", where=frame.place(row, column), allowed="a label")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and names is not None:
        if not 0 <= value < len(names):
            what = f"the label {value} has no name"
            raise UserError(what, where=frame.place(row, column), allowed=f"0 to {len(names) - 1}")
        return str(names[value])
    if not isinstance(value, str | int):
        what = f"holds a {type(value).__name__}"
        raise UserError(what, where=frame.place(row, column), allowed="labels: texts or integers")
    return str(value)


def numbers(frame: Frame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """The columns `names` side by side: [M, len(names)].

    Raises:
        UserError: No such column, or a value that is empty, not finite or no number.
    """
    result = np.empty((frame.num_rows, len(names)))
    for position, name in enumerate(names):
        result[:, position] = _numbers(frame, name)
        wrong = np.flatnonzero(~np.isfinite(result[:, position]))
        if len(wrong):
            row = int(wrong[0])
            value = _plain(frame.column(name)[row])
            what = "is empty" if value is None else f"{str(value)[:40]} is not finite"
            raise UserError(what, where=frame.place(row, name), allowed="finite numbers")
    return result


def _numbers(frame: Frame, name: str) -> npt.NDArray[np.float64]:
    column = frame.column(name)
    try:
        if isinstance(column, pa.ChunkedArray):
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if not column.null_count:
                cast = pa.compute.cast(column, pa.float64(), safe=False)
                return np.asarray(cast.to_numpy(), dtype=np.float64)
        else:
            values = column if isinstance(column, np.ndarray) else _listed(frame, name)
            return np.asarray(values, dtype=np.float64).reshape(frame.num_rows)
    except _VALUE_ERRORS:
        pass  # the row is looked for below
    for row, value in enumerate(_listed(frame, name)):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UserError("is empty", where=frame.place(row, name), allowed="a number")
        try:
            float(value)
        except _VALUE_ERRORS as error:
            what = f"{str(value)[:40]!r} is no number"
            raise UserError(what, where=frame.place(row, name), allowed="numbers") from error
    raise UserError(f"column '{name}' holds no numbers", where=frame.where)


class _Values:
    """A column read value by value, with messages that name the row."""

    def __init__(self, frame: Frame, name: str) -> None:
        self._frame, self._name, self._column = frame, name, frame.column(name)
        if len(self._column) != frame.num_rows:
            raise UserError(f"column '{name}' has {len(self._column)} of {frame.num_rows} rows", where=frame.where)

    def __getitem__(self, row: int) -> Any:
        try:
            value = _plain(self._column[row])
        except _VALUE_ERRORS as error:
            raise UserError(f"cannot be read: {error}", where=self.place(row)) from error
        if value is None or (isinstance(value, float) and value != value):
            raise UserError("is empty", where=self.place(row))
        return value

    def place(self, row: int) -> str:
        return self._frame.place(row, self._name)


def kind_of(value: Any) -> Kind | None:
    """Which kind of example a value is; None if it is none."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes | bytearray | Image.Image | Mapping):
        return "image"
    try:
        dimensions = np.asarray(value, dtype=np.float64).ndim
    except _VALUE_ERRORS:
        return None
    return {0: "vector", 1: "vector", 2: "image", 3: "image"}.get(dimensions)  # type: ignore[return-value]


def examples_of(
    frame: Frame, inputs: Sequence[str], order: Rows, *, size: int | None, grey: bool | None
) -> npt.NDArray[Any] | list[str]:
    """The examples of rows `order`: vectors of several columns of numbers, or what one column holds.

    Args:
        frame: The rows.
        inputs: One column of images, texts or vectors, or several of numbers.
        order: Rows in the order of the result.
        size: Height and width to resize images to, in pixels.
        grey: One channel, or three; None: as many as the first image has.

    Raises:
        UserError: No such column, or a value that is empty or not of the first value's kind.
    """
    name = inputs[0]
    values = _Values(frame, name)
    kind = "vector" if len(inputs) > 1 else kind_of(values[0])
    if kind != "image" and (size is not None or grey):
        raise UserError("size and grey need images", where=f"{frame.where}, column '{name}'")
    if len(inputs) > 1:
        return _float32(frame, inputs, numbers(frame, inputs))[order]
    if kind == "text":
        return [_text(values, int(row)) for row in order]
    if kind == "vector":
        return _vectors(frame, name, values, order)
    if kind == "image":
        return decode_images(
            [values.place(int(row)) for row in order],
            lambda index: _image(values[int(order[index])], values.place(int(order[index]))),
            size=size,
            grey=grey,
            num_threads=1,  # the data sets of other libraries may be read by one thread only
        )
    what = f"holds a {type(values[0]).__name__}"
    raise UserError(what, where=values.place(0), allowed="images, vectors of numbers or texts")


def _text(values: _Values, row: int) -> str:
    value = values[row]
    if not isinstance(value, str):
        raise UserError(f"holds a {type(value).__name__}", where=values.place(row), allowed="texts, as in row 0")
    if not value.strip():
        raise UserError("is empty", where=values.place(row), allowed="a text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError("holds no UTF-8", where=values.place(row), allowed="texts in UTF-8")
    return value


def _image(value: Any, where: str) -> bytes | Image.Image:
    if isinstance(value, Mapping):  # the {bytes, path} of Hugging Face data
        value = value.get("bytes")
        if value is None:  # a path could point anywhere
            raise UserError("holds no bytes of an image", where=where, allowed="images that are part of the data")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    return value if isinstance(value, Image.Image) else picture(value, where)


def _vectors(frame: Frame, name: str, values: _Values, order: Rows) -> npt.NDArray[np.float32]:
    column = frame.column(name)
    fast = _matrix(column, frame.num_rows) if isinstance(column, pa.ChunkedArray) else None
    if fast is None and isinstance(column, np.ndarray) and column.dtype.kind in "fiu" and column.ndim in (1, 2):
        fast = column.reshape(frame.num_rows, -1)
    if fast is not None:
        return _float32(frame, [name], fast)[order]
    first = _vector(values, 0)
    result = np.empty((frame.num_rows, len(first)))
    for row in range(frame.num_rows):
        vector = _vector(values, row)
        if len(vector) != len(first):
            what = f"has {len(vector)} numbers, row 0 has {len(first)}"
            raise UserError(what, where=values.place(row), allowed="vectors of one length")
        result[row] = vector
    return _float32(frame, [name], result)[order]


def _matrix(column: Any, num_rows: int) -> npt.NDArray[Any] | None:
    """An Arrow column of lists of one length as a matrix; None if it is anything else."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or column.null_count:
        return None
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return None
    lengths = np.unique(pa.compute.list_value_length(column).to_numpy())
    if len(lengths) != 1 or not lengths[0]:
        return None
    return np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]).reshape(
        num_rows, int(lengths[0])
    )


def _vector(values: _Values, row: int) -> npt.NDArray[np.float64]:
    try:
        vector = np.atleast_1d(np.asarray(values[row], dtype=np.float64))
    except _VALUE_ERRORS as error:
        raise UserError(f"holds no numbers: {error}", where=values.place(row)) from error
    if vector.ndim != 1 or not len(vector):
        what = f"holds an array of shape {list(vector.shape)}"
        raise UserError(what, where=values.place(row), allowed="vectors of one length")
    return vector


def _float32(frame: Frame, names: Sequence[str], values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The vectors of all rows, in the order of the rows, as float32."""
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(result))
    if len(wrong):
        row, entry = (int(index) for index in wrong[0])
        column, position = (names[entry], "") if len(names) > 1 else (names[0], f"entry {entry}: ")
        what = f"{position}{values[row, entry]} is not a finite float32"
        raise UserError(what, where=frame.place(row, column), allowed="finite numbers")
    return result
