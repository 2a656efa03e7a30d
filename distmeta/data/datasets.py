"""Import data that another library holds: Hugging Face, torch, pandas, Arrow, or plain columns.

None of these libraries is needed: their data sets are used through their common interfaces.

| data | recognised by | rows |
|---|---|---|
| `datasets.Dataset` | `features`, `column_names` | its columns; class names of a `ClassLabel` |
| map-style `torch` data set | `__getitem__`, `__len__` | `(x, label)` or mappings; class names in `classes` |
| `pandas.DataFrame` | `columns`, `iloc` | its columns |
| `pyarrow.Table` | | its columns |
| mapping of columns | its keys are column names | `{"image": [...], "label": [...]}` |
| mapping of data sets, `DatasetDict` | its keys are none | the rows of all; their column `split` is the key |

Rows are read on one thread, those of a torch data set twice: labels, then inputs.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
from typing_extensions import override

from distmeta.core.errors import UserError
from distmeta.core.paths import expand_user
from distmeta.data.catalog import import_store, require_name, save_store
from distmeta.data.importers import ImportOptions
from distmeta.data.importers.arrow import SPLIT_COLUMN, frame_of
from distmeta.data.importers.columns import Frame, labels
from distmeta.data.importers.labelled import class_data
from distmeta.data.splits import DEFAULT_FRACTIONS
from distmeta.data.store import ClassStore


def import_dataset(
    name: str,
    dataset: Any,
    *,
    inputs: str | Sequence[str] = "image",
    label: str = "label",
    splits: str | Mapping[str, Sequence[str | int]] | None = None,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    size: int | None = None,
    grey: bool | None = None,
    min_examples: int = 1,
    replace: bool = False,
) -> ClassStore:
    """Import class-labelled data into the store `name`.

    Args:
        name: Name of the store, for `tasks.store`.
        dataset: A data set (see the table of this module), or the path of a folder of `save_to_disk` or of a table.
        inputs: Column of images (arrays, Pillow images, encoded bytes), of vectors or of texts; or several columns of
            numbers, which make a vector. The first row says which.
        label: Column of class names or integers.
        splits: Classes of the splits: a column of `train`, `val` and `test` (`split` of a mapping of data sets), or
            lists of class names; None splits them at random.
        fractions: Shares of train, val and test classes of a random split.
        seed: Seed of a random split.
        size: Height and width to resize images to, in pixels.
        grey: One channel, or three; None: as many as the first image has.
        min_examples: Examples that each class must have.
        replace: Replace a store of the same name.

    Returns:
        The store, open.

    Raises:
        UserError: `dataset` is nothing of that, a column is missing, or a value is empty or not of the first value's
            kind; row and column are named.
    """
    columns = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    if not columns:
        raise UserError("no columns", where="inputs", allowed="one column, or several of numbers")
    lists = None if splits is None or isinstance(splits, str) else {k: [str(n) for n in v] for k, v in splits.items()}
    options = ImportOptions(
        size=size,
        grey=grey,
        seed=seed,
        fractions=fractions,
        inputs=columns,
        label_column=label,
        split_column=splits if isinstance(splits, str) else None,
        splits=lists,
    )
    if isinstance(dataset, str | os.PathLike):
        path = expand_user(dataset)
        kind = "hf" if os.path.isdir(path) else "table"
        return import_store(kind, path, name=name, options=options, min_examples=min_examples, replace=replace)
    if size is not None and not 1 <= size <= 4096:
        raise UserError(f"size {size}", where="size", allowed="1 to 4096 pixels")
    require_name(name, replace=replace)
    wanted = list(dict.fromkeys([*columns, label, *([options.split_column] if options.split_column else [])]))
    frame = _frame(dataset, wanted, columns[0], label)
    return save_store(
        name,
        class_data(frame, columns, options, []),
        importer="dataset",
        options={
            "inputs": list(columns),
            "label": label,
            "split_column": options.split_column,
            "seed": seed,
            "fractions": list(fractions),
            "size": size,
            "grey": grey,
        },
        where=frame.where,
        min_examples=min_examples,
        replace=replace,
    )


class _Columns(Mapping[str, Any]):
    """Columns that are fetched when they are used."""

    def __init__(self, names: Sequence[str], get: Callable[[str], Any]) -> None:
        self._names, self._get = names, get

    @override
    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._get(name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)


class _Field(Sequence[Any]):
    """One field of each row of a map-style data set."""

    def __init__(self, rows: Any, field: str | int) -> None:
        self._rows, self._field = rows, field

    @override
    def __getitem__(self, index: Any) -> Any:
        if index >= len(self._rows):
            raise IndexError(index)
        return self._rows[index][self._field]

    @override
    def __len__(self) -> int:
        return len(self._rows)


class _Chained(Sequence[Any]):
    """Columns one after the other."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts, self._ends = parts, list(accumulate(map(len, parts)))

    @override
    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]

    @override
    def __len__(self) -> int:
        return self._ends[-1]


def _frame(dataset: Any, names: Sequence[str], inputs: str, label: str) -> Frame:
    """The columns `names` of any kind of data set; `inputs` and `label` are those of a row that is a pair."""
    where = f"the {type(dataset).__name__}"
    if isinstance(dataset, pa.Table):
        frame = frame_of(dataset, where, names)
    elif hasattr(dataset, "iloc") and hasattr(dataset, "columns"):
        frame = _of_pandas(dataset, where)
    elif isinstance(dataset, Mapping) and (label in dataset or inputs in dataset):
        frame = Frame(where, len(dataset[label if label in dataset else inputs]), dataset)
    elif isinstance(dataset, Mapping):
        frame = _joined(dataset, where, names, inputs, label)
    elif hasattr(dataset, "features") and hasattr(dataset, "column_names"):
        features = dict(dataset.features or {})
        class_names = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}
        frame = Frame(where, len(dataset), _Columns(list(dataset.column_names), dataset.__getitem__), class_names)
    elif hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, str | bytes):
        frame = _of_rows(dataset, where, inputs, label)
    else:
        allowed = "a Hugging Face, torch or pandas data set, a pyarrow table, a mapping of columns, or a path"
        raise UserError(f"a {type(dataset).__name__} is no data set", where="dataset", allowed=allowed)
    if not frame.num_rows:
        raise UserError("holds no row", where=where)
    return frame


def _of_pandas(table: Any, where: str) -> Frame:
    names = [str(name) for name in table.columns]

    def column(name: str) -> Any:
        if names.count(name) > 1:
            raise UserError(f"has {names.count(name)} columns '{name}'", where=where, allowed="one of that name")
        series = table.iloc[:, names.index(name)]
        if getattr(series.dtype, "kind", "O") in "biuf" and not hasattr(series.dtype, "na_value"):
            return series.to_numpy()
        values = series.to_numpy(dtype=object, copy=True)
        values[series.isna().to_numpy()] = None  # pandas has several values for an empty cell
        return values

    return Frame(where, len(table), _Columns(names, column))


def _of_rows(rows: Any, where: str, inputs: str, label: str) -> Frame:
    """A map-style data set, as `torch.utils.data.Dataset`."""
    num_rows = len(rows)
    first = rows[0] if num_rows else ()
    class_names = getattr(rows, "classes", None)
    names = {label: class_names} if isinstance(class_names, list | tuple) else {}
    if isinstance(first, Mapping):
        return Frame(where, num_rows, _Columns(list(first), lambda name: _Field(rows, name)), names)
    if num_rows and not (isinstance(first, tuple | list) and len(first) >= 2):
        what = f"its rows are of type {type(first).__name__}"
        raise UserError(what, where=where, allowed="rows (x, label), or mappings of columns")
    return Frame(where, num_rows, {inputs: _Field(rows, 0), label: _Field(rows, 1)}, names)


def _joined(parts: Mapping[Any, Any], where: str, names: Sequence[str], inputs: str, label: str) -> Frame:
    """The rows of all data sets of a mapping, with their keys as the column `split`."""
    if not parts:
        raise UserError("holds no data set", where=where)
    if scalars := [key for key, part in parts.items() if not hasattr(part, "__getitem__") or isinstance(part, str)]:
        raise UserError(f"'{scalars[0]}' is no data set", where=where, allowed=f"data sets, or a column '{label}'")
    names = [name for name in names if name != SPLIT_COLUMN]
    frames = {str(key): _frame(part, names, inputs, label) for key, part in parts.items()}
    columns: dict[str, Any] = {name: _Chained([frame.column(name) for frame in frames.values()]) for name in names}
    # As texts, because each data set may number its classes in its own way.
    columns[label] = _Chained([labels(frame, label) for frame in frames.values()])
    columns[SPLIT_COLUMN] = [key for key, frame in frames.items() for _ in range(frame.num_rows)]
    return Frame(where, sum(frame.num_rows for frame in frames.values()), columns)
