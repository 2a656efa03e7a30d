"""Data sets of other libraries. Those that are not installed are stood in for by fakes with their interface."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from distmeta.core.errors import UserError
from distmeta.data import import_dataset
from distmeta.data.store import ClassStore

pytestmark = pytest.mark.usefixtures("home")


@dataclass
class FakeClassLabel:
    names: list[str]


class FakeHuggingFace:
    """`datasets.Dataset`: columns of decoded values."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self._columns, self.features = columns, {name: features.get(name) for name in columns}

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str | int) -> Any:
        return self._columns[key] if isinstance(key, str) else {n: c[key] for n, c in self._columns.items()}


class FakeDatasetDict(dict[str, FakeHuggingFace]):
    """`datasets.DatasetDict`."""

    @property
    def column_names(self) -> dict[str, list[str]]:
        return {name: part.column_names for name, part in self.items()}


class Pairs(torch.utils.data.Dataset[Any]):
    """A map-style data set of torch."""

    classes = ("cat", "dog")

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._rows[index]


def grey(value: int, mode: str = "L") -> Image.Image:
    return Image.new(mode, (4, 3), value)


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    grey(value).save(buffer, format="PNG")
    return buffer.getvalue()


def first_pixels(store: ClassStore) -> list[int]:
    return [int(value) for value in store.images[:, 0, 0, 0]]


def refused(message: str, dataset: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_dataset("bad", dataset, **options)
    assert "\n" not in str(caught.value)


def test_hugging_face_images_and_class_labels() -> None:
    data = FakeHuggingFace(
        {"img": [grey(30), grey(10), grey(20)], "fine": [1, 0, 1]}, {"fine": FakeClassLabel(["cat", "dog"])}
    )
    store = import_dataset("pets", data, inputs="img", label="fine")
    assert (store.kind, store.shape, store.class_names) == ("image", (1, 3, 4), ["cat", "dog"])
    assert first_pixels(store) == [10, 30, 20]  # rows of a class keep their order
    assert import_dataset("colour", data, inputs="img", label="fine", grey=False, size=5).shape == (3, 5, 5)
    assert store.manifest.provenance.importer == "dataset"
    refused("the FakeHuggingFace: has no column 'label'; allowed: fine, img", data, inputs="img")


def test_hugging_face_encoded_images_that_are_not_decoded() -> None:
    data = FakeHuggingFace({"image": [{"bytes": encoded(7), "path": "x"}, {"bytes": encoded(8)}], "label": [0, 1]}, {})
    assert first_pixels(import_dataset("pets", data)) == [7, 8]
    data = FakeHuggingFace(
        {"image": [{"bytes": encoded(7)}, {"bytes": None, "path": "/etc/passwd"}], "label": [0, 1]}, {}
    )
    refused("the FakeHuggingFace, row 1, column 'image': holds no bytes of an image", data)


def test_splits_of_a_mapping_of_data_sets() -> None:
    def part(values: list[int], names: list[str]) -> FakeHuggingFace:
        return FakeHuggingFace(
            {"text": [f"text {value}" for value in values], "label": [0] * len(values)},
            {"label": FakeClassLabel(names)},
        )

    parts = FakeDatasetDict(train=part([1, 2], ["a"]), validation=part([3], ["b"]), test=part([4], ["c"]))
    store = import_dataset("words", parts, inputs="text", splits="split")
    assert store.texts.to_pylist() == ["text 1", "text 2", "text 3", "text 4"]
    assert store.splits == {"given": {"train": [0], "val": [1], "test": [2]}}
    assert list(import_dataset("mixed", parts, inputs="text").splits) == ["fractions"]
    parts["test"] = part([4], ["a"])
    refused(
        r"column 'split': class 'a' is in split 'train' and, in row 3, in 'test'; allowed: one split for each class",
        parts,
        inputs="text",
        splits="split",
    )
    parts["held"] = part([4], ["d"])
    refused(
        r"column 'split': unknown split 'held' in row 4; allowed: train, val, test",
        FakeDatasetDict(
            train=part([1, 2], ["a"]), validation=part([3], ["b"]), test=part([4], ["c"]), held=part([5], ["d"])
        ),
        inputs="text",
        splits="split",
    )


@pytest.mark.parametrize(
    "image",
    [
        torch.full((3, 6, 5), 51 / 255),
        np.full((6, 5, 3), 51, dtype=np.int64),
        np.full((3, 6, 5), 51, dtype=np.uint8),
        Image.new("RGB", (5, 6), (51, 51, 51)),
    ],
)
def test_torch_rows_are_pairs(image: Any) -> None:
    store = import_dataset("pets", Pairs([(image, torch.tensor(1)), (image, 0)]))
    assert (store.shape, store.class_names, first_pixels(store)) == ((3, 6, 5), ["cat", "dog"], [51, 51])


def test_torch_rows_may_be_mappings() -> None:
    rows = [{"x": torch.tensor([1.0, 2.0]), "y": 3}, {"x": torch.tensor([3.0, 4.0]), "y": 2}]
    store = import_dataset("points", [*rows], inputs="x", label="y")
    assert (store.kind, store.shape, store.class_names) == ("vector", (2,), ["2", "3"])
    np.testing.assert_array_equal(store.vectors, np.array([[3, 4], [1, 2]], dtype=np.float32))


def test_pandas_columns_are_vectors_texts_or_arrays() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "kind": ["y", "x", "y"], "note": ["p", "q", "r"]})
    store = import_dataset("numbers", frame, inputs=["a", "b"], label="kind")
    np.testing.assert_array_equal(store.vectors, np.array([[2, 1.5], [1, 0.5], [3, 2.5]], dtype=np.float32))
    assert import_dataset("one", frame, inputs="a", label="kind").vectors.tolist() == [[2.0], [1.0], [3.0]]
    assert import_dataset("notes", frame, inputs="note", label="kind").texts.to_pylist() == ["q", "p", "r"]
    frame["array"] = [np.full((4, 4), value, dtype=np.uint8) for value in (9, 8, 7)]
    assert first_pixels(import_dataset("arrays", frame, inputs="array", label="kind")) == [8, 9, 7]
    frame["kind"] = pd.Categorical(["y", "x", "y"])
    assert import_dataset("again", frame, inputs="a", label="kind").class_names == ["x", "y"]


def test_arrow_tables_and_plain_columns() -> None:
    vectors = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    expected = np.array([[3, 4], [1, 2], [5, 6]], dtype=np.float32)
    for name, kind in (
        ("list", pa.list_(pa.float64())),
        ("fixed", pa.list_(pa.float32(), 2)),
        ("ints", pa.list_(pa.int8())),
    ):
        table = pa.table(
            {"x": pa.array(vectors if name != "ints" else [[1, 2], [3, 4], [5, 6]], kind), "y": ["b", "a", "b"]}
        )
        np.testing.assert_array_equal(import_dataset(name, table, inputs="x", label="y").vectors, expected)
    columns = {"x": np.array(vectors), "y": ["b", "a", "b"]}
    np.testing.assert_array_equal(import_dataset("columns", columns, inputs="x", label="y").vectors, expected)
    columns["x"] = torch.tensor(vectors)  # type: ignore[assignment]
    np.testing.assert_array_equal(import_dataset("tensors", columns, inputs="x", label="y").vectors, expected)


def test_splits_are_a_column_lists_or_random() -> None:
    data = {"x": np.eye(4), "label": [7, 5, 6, 8], "fold": ["train", "dev", "test", "train"]}
    store = import_dataset("column", data, inputs="x", splits="fold")
    assert store.splits == {"given": {"train": [2, 3], "val": [0], "test": [1]}}
    store = import_dataset("lists", data, inputs="x", splits={"train": [5, 6], "test": ["8"]})
    assert store.splits == {"given": {"train": [0, 1], "val": [], "test": [3]}}
    store = import_dataset("random", data, inputs="x", fractions=(0.5, 0.25, 0.25), seed=3)
    assert {split: len(classes) for split, classes in store.splits["fractions"].items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    refused("names an unknown class '9'", data, inputs="x", splits={"train": [9]})
    refused("lists class '5' twice", data, inputs="x", splits={"train": [5], "test": [5]})
    refused("unknown split 'tran'; allowed: train, val, test", data, inputs="x", splits={"tran": [5]})
    refused("has no column 'split'", data, inputs="x", splits="split")


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"image": [], "label": []}, "the dict: holds no row"),
    ({"image": [1], "label": ["a", "b"]}, r"column 'image' has 1 of 2 rows"),
    ({"image": ["a", "b"], "label": ["x", None]}, r"row 1, column 'label': is empty; allowed: a label"),
    ({"image": ["a", "b"], "label": ["x", float("nan")]}, r"row 1, column 'label': is empty"),
    ({"image": ["a", "b"], "label": [1, 0.5]}, r"row 1, column 'label': holds a float; allowed: labels: texts or int"),
    ({"image": ["a", "b"], "label": [1, torch.zeros(2)]}, r"row 1, column 'label': is no single label"),
    ({"image": ["a", 1], "label": [0, 1]}, r"row 1, column 'image': holds a int; allowed: texts"),
    ({"image": ["a", " "], "label": [0, 1]}, r"row 1, column 'image': is empty"),
    ({"image": ["a", None], "label": [0, 1]}, r"row 1, column 'image': is empty"),
    ({"image": ["a", "\ud800"], "label": [0, 1]}, r"row 1, column 'image': holds no UTF-8"),
    ({"image": [[1, 2], [1]], "label": [0, 1]}, r"row 1, column 'image': has 1 numbers, row 0 has 2"),
    ({"image": [[1, 2], [1, "x"]], "label": [0, 1]}, r"row 1, column 'image': holds no numbers"),
    (
        {"image": [[1.0, 2.0], [1.0, float("nan")]], "label": [0, 1]},
        r"row 1, column 'image': entry 1: nan is not a fin",
    ),
    ({"image": np.array([[1.0], [1e300]]), "label": [0, 1]}, r"row 1, column 'image': entry 0: 1e\+300 is not a fin"),
    ({"image": [object(), 1], "label": [0, 1]}, r"row 0, column 'image': holds a object; allowed: images, vectors"),
    ({"image": [b"junk"], "label": [0]}, r"row 0, column 'image': the image cannot be decoded: unknown format"),
    ({"image": [grey(1), Image.new("L", (9, 9))], "label": [0, 0]}, r"row 1, column 'image': is 9x9 pixels, the first"),
    ({"image": [np.zeros((2, 4, 4))], "label": [0]}, r"row 0, column 'image': .*\[2, 4, 4\] has no axis of 1 or 3"),
    (
        {"image": [np.zeros((3, 4, 3))], "label": [0]},
        r"row 0, column 'image': .*\[3, 4, 3\] may have its channels first",
    ),
    ({"image": [np.full((4, 4), 1.5)], "label": [0]}, r"row 0, column 'image': pixels of type float64 from 1.5 to 1.5"),
    ({"image": [np.full((4, 4), 256)], "label": [0]}, r"row 0, column 'image': pixels of type int64 from 256 to 256"),
    ({"image": [np.full((4, 4), np.nan)], "label": [0]}, r"row 0, column 'image': pixels of type float64 from nan"),
    ({"image": [np.zeros((0, 4))], "label": [0]}, r"row 0, column 'image': holds an array of shape \[0, 4\]"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_ROWS)
def test_bad_rows_are_named(columns: dict[str, Any], message: str) -> None:
    refused(message, columns)


def test_bad_data_sets_are_refused() -> None:
    def rows() -> Iterator[tuple[int, int]]:
        yield 1, 2

    refused("dataset: a generator is no data set; allowed: a Hugging Face, torch or pandas", rows())
    refused("the Pairs: its rows are of type int; allowed: rows", Pairs([1, 2]))
    refused("the Pairs, row 1, column 'label': the label 2 has no name; allowed: 0 to 1", Pairs([(1, 0), (1, 2)]))
    refused("'x' is no data set; allowed: data sets, or a column 'label'", {"x": 3})
    refused("has no column 'label'; allowed: image", {"image": [1]})
    frame = pd.DataFrame([[1, 2, "a"]], columns=["a", "a", "label"])
    refused("has 2 columns 'a'; allowed: one of that name", frame, inputs="a")
    refused("row 0, column 'b': 'x' is no number", {"a": [1], "b": ["x"], "label": [0]}, inputs=["a", "b"])
    refused("row 1, column 'b': is empty", {"a": [1, 2], "b": [1, None], "label": [0, 1]}, inputs=["a", "b"])
    refused("column 'a': size and grey need images", {"a": [1], "label": [0]}, inputs="a", size=4)
    refused("class '0' has 1 example, 2 are needed", {"image": [1], "label": [0]}, min_examples=2)
    with pytest.raises(UserError, match=r"store name '\.\./up'"):
        import_dataset("../up", {"image": [1], "label": [0]})
    import_dataset("taken", {"image": [1], "label": [0]})
    with pytest.raises(UserError, match="a store 'taken' exists already"):
        import_dataset("taken", {"image": [1], "label": [0]})
    import_dataset("taken", {"image": [2], "label": [0]}, replace=True)
