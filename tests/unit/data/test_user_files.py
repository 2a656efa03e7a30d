"""Files of a user's own: saved Hugging Face data sets, Arrow files, tables of vectors and of regression tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from distmeta.cli.data import app
from distmeta.core.errors import UserError
from distmeta.data import import_dataset
from distmeta.data.catalog import import_store
from distmeta.data.importers import ImportOptions
from distmeta.data.inspect import contact_sheet, summary
from distmeta.data.store import ClassStore, write_store

pytestmark = pytest.mark.usefixtures("home")
Png = Callable[..., bytes]


def rejected(kind: str, source: Path, message: str, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_store(kind, source, name="bad", options=ImportOptions(**options))
    assert "\n" not in str(caught.value)


def command(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["import", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    output: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return output


def save(folder: Path, table: Any, features: dict[str, Any], parts: int = 2) -> None:
    """Write what `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{part:05}-of-{parts:05}.arrow" for part in range(parts)]
    size = -(-table.num_rows // parts)
    for part, name in enumerate(names):
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table.slice(part * size, size))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}), encoding="utf-8")


FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["dog", "cat"], "_type": "ClassLabel"},
    "other": {"dtype": "string", "_type": "Value"},
}


@pytest.fixture
def saved(tmp_path: Path, png: Png) -> Path:
    """Three images of two classes, in two files."""
    rows = [{"bytes": png(value), "path": f"{value}.png"} for value in (1, 2, 3)]
    save(tmp_path / "pets", pa.table({"image": rows, "label": [0, 1, 0], "other": ["a", "b", "c"]}), FEATURES)
    return tmp_path / "pets"


# Saved Hugging Face data sets


def test_a_saved_data_set(saved: Path) -> None:
    store = import_store("hf", saved)
    assert (store.name, store.kind, store.shape, store.class_names) == ("pets", "image", (3, 8, 8), ["cat", "dog"])
    assert store.images[:, 0, 0, 0].tolist() == [2, 1, 3]
    (source,) = store.manifest.provenance.sources
    assert source.name == "pets/ (2 files)"
    again = import_dataset("again", saved)
    np.testing.assert_array_equal(again.images, store.images[:, :1])  # in Python, as many channels as there are
    assert import_dataset("colour", saved, grey=False).shape == (3, 8, 8)
    assert import_dataset("words", str(saved), inputs="other").texts.to_pylist() == ["b", "a", "c"]
    assert command("grey", saved, "--format", "hf", "--size", "4", "--grey")["shape"] == [1, 4, 4]


def test_a_saved_dictionary_of_data_sets(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    for split, label in (("train", 0), ("validation", 1), ("test", 2)):
        features = {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
        save(folder / split, pa.table({"text": [f"{split} 1", f"{split} 2"], "label": [label] * 2}), features, parts=1)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}', encoding="utf-8")
    store = import_store("hf", folder, options=ImportOptions(inputs=("text",), split_column="split"))
    assert store.class_names == ["a", "b", "c"]
    assert store.splits == {"given": {"train": [0], "val": [1], "test": [2]}}
    assert store.texts.to_pylist()[:2] == ["train 1", "train 2"]
    shown = command("words2", folder, "--format", "hf", "--inputs", "text", "--split-column", "split")
    assert shown["splits"] == {"given": {"train": 1, "val": 1, "test": 1}}
    (folder / "dataset_dict.json").write_text('{"splits": ["../words"]}', encoding="utf-8")
    rejected("hf", folder, r"dataset_dict.json: '../words' leaves the folder", inputs=("text",))
    (folder / "dataset_dict.json").write_text('{"splits": []}', encoding="utf-8")
    rejected("hf", folder, r"dataset_dict.json: 'splits' is no list of names", inputs=("text",))


def _state(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state.json").write_text(content, encoding="utf-8")  # type: ignore[return-value]


def _first(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "data-00000-of-00002.arrow").write_bytes(content)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "state.json").unlink(),
            r"pets: holds no saved data set; allowed: a folder written by",
        ),
        (_state("{"), r"state.json: is not JSON"),
        (_state("[" * 100_000), r"state.json: is not JSON"),
        (_state("[]"), r"state.json: holds no JSON object"),
        (_state("{}"), r"state.json: '_data_files' is no list of files"),
        (_state('{"_data_files": [{"filename": "/etc/passwd"}]}'), r"state.json: '/etc/passwd' leaves the folder"),
        (_state('{"_data_files": [{"filename": 3}]}'), r"state.json: '_data_files' is no list of names"),
        (_state('{"_data_files": [{"filename": "none.arrow"}]}'), r"pets/none.arrow: cannot be read"),
        (_first(b""), r"data-00000-of-00002.arrow: cannot be read"),
        (_first(b"ARROW1" + bytes(100)), r"data-00000-of-00002.arrow: cannot be read"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), r"dataset_info.json: is not JSON"),
    ],
)
def test_damaged_saved_data_sets_are_named(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    rejected("hf", saved, message)


def test_metadata_that_ask_for_too_much_memory_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def read_all(self) -> None:
            raise MemoryError("malloc of size 4611686018427387904 failed")

    monkeypatch.setattr(pa.ipc, "open_stream", lambda file: Reader())
    rejected("hf", saved, r"data-00000-of-00002.arrow: cannot be read: it asks for more memory than there is")


def test_a_small_file_of_very_many_rows_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "empty", pa.table({"image": pa.nulls(10**9), "label": pa.nulls(10**9)}), {}, parts=1)
    rejected("hf", tmp_path / "empty", r"data-00000-of-00001.arrow: cannot be read: it has 1000000000 rows, more than")


def test_an_image_that_is_a_path_is_never_opened(tmp_path: Path) -> None:
    save(tmp_path / "paths", pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}], "label": [0]}), {}, parts=1)
    rejected("hf", tmp_path / "paths", r"paths, row 0, column 'image': holds no bytes of an image")


# Tables of texts


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow"])
def test_texts_of_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mail.{suffix}"
    texts = ['two\nlines, "quoted"', "grüße 你好", "007"]
    table = pa.table({"body": texts, "topic": ["b", "a", "b"]})
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, table.to_pylist())), encoding="utf-8")
    else:
        rows = [["body", "topic"], *([row["body"], row["topic"]] for row in table.to_pylist())]
        quoted = [[f'"{value.replace(chr(34), 2 * chr(34))}"' for value in row] for row in rows]
        path.write_text("\n".join(({"csv": ",", "tsv": "\t"}[suffix]).join(row) for row in quoted), encoding="utf-8")
    shown = command("table", path, "--text-column", "body", "--label-column", "topic")
    assert (shown["kind"], shown["num_classes"], shown["num_examples"]) == ("text", 2, 3)
    store = import_dataset("again", path, inputs="body", label="topic")
    assert store.class_names == ["a", "b"]
    assert store.texts.to_pylist() == [texts[1], texts[0], texts[2]]
    assert store.texts.type == pa.large_string()


# Tables of vectors


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow", "feather"])
def test_vectors_of_several_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"flowers.{suffix}"
    table = pa.table(
        {"a": [1.5, 2.5, 3.5], "b": [1, 2, 3], "label": ["y", "x", "y"], "fold": ["train", "val", "train"]}
    )
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "feather":
        pyarrow.feather.write_feather(table, str(path))
    elif suffix == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, table.to_pylist())), encoding="utf-8")
    else:
        lines = [list(table.column_names), *([str(each) for each in row.values()] for row in table.to_pylist())]
        path.write_text("\n".join(({"csv": ",", "tsv": "\t"}[suffix]).join(line) for line in lines), encoding="utf-8")
    options = ImportOptions(inputs=("a", "b"), split_column="fold")
    store = import_store("table", path, options=options)
    assert (store.kind, store.shape, store.class_names) == ("vector", (2,), ["x", "y"])
    assert store.vectors.tolist() == [[2.5, 2.0], [1.5, 1.0], [3.5, 3.0]]
    assert store.splits == {"given": {"train": [1], "val": [0], "test": []}}
    assert store.manifest.provenance.options["inputs"] == ["a", "b"]


def test_splits_of_a_file(tmp_path: Path, png: Png) -> None:
    path, splits = tmp_path / "mail.csv", tmp_path / "classes.json"
    path.write_text("text,label,fold\na,1,train\nb,2,test\nc,3,test\n", encoding="utf-8")
    store = import_store("table", path, options=ImportOptions(split_column="fold"))
    assert store.splits == {"given": {"train": [0], "val": [], "test": [1, 2]}}
    splits.write_text('{"train": [1, 3], "validation": ["2"]}', encoding="utf-8")
    assert command("mail2", path, "--format", "table", "--splits", splits)["splits"] == {
        "given": {"train": 2, "val": 1, "test": 0}
    }
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name / "0.png").write_bytes(png())
    pets = import_store("images", tmp_path / "pets", options=ImportOptions(splits={"test": ["dog"]}))
    assert pets.splits == {"given": {"train": [], "val": [], "test": [1]}}
    splits.write_text('{"train": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"classes.json: holds no class lists"):
        command("mail3", path, "--format", "table", "--splits", splits)


def test_class_names_of_a_parquet_file(tmp_path: Path, png: Png) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    table = pa.table({"image": [{"bytes": png(1)}, {"bytes": png(2)}], "label": [0, 1]}).replace_schema_metadata(
        metadata
    )
    pq.write_table(table, tmp_path / "pets.parquet")
    assert import_dataset("pets", tmp_path / "pets.parquet").class_names == ["cat", "dog"]


# Tables of regression tasks


def waves(path: Path, rows: str = "a,1,2,3\nb,4,5,6\na,7,8,9\n") -> Path:
    path.write_text(f"group,x,z,target\n{rows}", encoding="utf-8")
    return path


def test_groups_of_a_table(tmp_path: Path) -> None:
    store = import_store("regression", waves(tmp_path / "waves.csv"))
    assert (store.name, store.kind, store.shape, store.class_names) == ("waves", "table", (2, 1), ["a", "b"])
    assert store.rows.tolist() == [[1, 2, 3], [7, 8, 9], [4, 5, 6]]
    assert store.rows.dtype == np.float64
    assert not store.rows.flags.writeable
    shown = command("two", tmp_path / "waves.csv", "--group", "group", "--target", "z,target", "--inputs", "x")
    assert (shown["name"], shown["kind"], shown["shape"]) == ("two", "table", [1, 2])
    assert shown["mean"] == [4.0, 5.0, 6.0]
    assert command("regression", tmp_path / "waves.csv", "--group", "group", "--name", "three")["name"] == "three"
    path = tmp_path / "waves.jsonl"
    path.write_text('{"group": 2, "x": 1.5, "target": 1e-9}\n{"group": 10, "x": 2, "target": 3}', encoding="utf-8")
    store = import_store("regression", path, name="lines")
    assert (store.class_names, store.rows.tolist()) == (["2", "10"], [[1.5, 1e-9], [2.0, 3.0]])


def test_splits_over_groups(tmp_path: Path) -> None:
    path = tmp_path / "waves.csv"
    path.write_text("group,x,target,part\na,1,2,train\nb,1,2,test\na,3,4,train\n", encoding="utf-8")
    store = import_store("regression", path, options=ImportOptions(split_column="part"))
    assert (store.shape, store.splits) == ((1, 1), {"given": {"train": [0], "val": [], "test": [1]}})
    path.write_text("group,x,target,part\na,1,2,train\na,1,2,test\n", encoding="utf-8")
    rejected("regression", path, r"column 'part': group 'a' is in split 'train' and, in row 1,", split_column="part")


BAD_TABLES: list[tuple[str, dict[str, Any], str]] = [
    ("a,1,x,3\n", {}, r"waves.csv, row 0, column 'z': 'x' is no number"),
    ("a,1,2,3\nb,1,,3\n", {}, r"waves.csv, row 1, column 'z': is empty"),
    ("a,1,2,3\nb,1,inf,3\n", {}, r"waves.csv, row 1, column 'z': inf is not finite"),
    ("a,1,2,3\n,1,2,3\n", {}, r"waves.csv, row 1, column 'group': is empty"),
    ("a,1,2,3\n", {"group": "grup"}, r"waves.csv: has no column 'grup'; allowed: did you mean 'group'"),
    ("a,1,2,3\n", {"target": ("y",)}, r"waves.csv: has no column 'y'"),
    ("a,1,2,3\n", {"inputs": ("x", "y")}, r"waves.csv: has no column 'y'"),
    ("a,1,2,3\n", {"inputs": ("x", "target")}, r"--inputs: column 'target' is named twice"),
    ("a,1,2,3\n", {"target": ("x", "z", "target")}, r"waves.csv: has no column of inputs"),
    ("", {}, r"waves.csv: holds no row"),
    ("a,1,2,3\n", {"size": 3}, r"importer 'regression' does not support --size"),
    ("a,1,2,3\n", {"splits": {"train": ["c"]}}, r"split 'given.train' names an unknown class 'c'"),
]


@pytest.mark.parametrize(("rows", "options", "message"), BAD_TABLES)
def test_bad_tables_are_named(tmp_path: Path, rows: str, options: dict[str, Any], message: str) -> None:
    rejected("regression", waves(tmp_path / "waves.csv", rows), message, **options)


def test_groups_with_too_few_rows_are_refused(tmp_path: Path) -> None:
    path = waves(tmp_path / "waves.csv")
    with pytest.raises(
        UserError, match=r"waves.csv: group 'b' has 1 row, 2 are needed; allowed: groups with at least 2"
    ):
        import_store("regression", path, min_examples=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "{}", "--format", "regression", "--name", "y"], r"data import: both --name y and --format, which makes"),
        (["x", "{}", "--format", "regresion"], r"no importer 'regresion'; allowed: did you mean 'regression'"),
        (["x", "{}", "--group", "group", "--inputs", "x,,z"], r"--inputs: 'x,,z' has an empty name"),
        (["table", "{}", "--group", "group"], r"importer 'table' does not support --group"),
        (["table", "{}", "--inputs", "x", "--image-column", "z"], r"--inputs and --text-column or --image-column are"),
    ],
)
def test_bad_commands_raise_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = waves(tmp_path / "waves.csv")
    with pytest.raises(UserError, match=message):
        command(*(argument.format(path) for argument in arguments))


# Stores


@pytest.mark.parametrize("kind", ["vector", "table"])
def test_numbers_are_views_of_the_mapped_file(tmp_path: Path, kind: str) -> None:
    dtype, num_targets = (np.float32, 0) if kind == "vector" else (np.float64, 1)
    values = np.arange(12, dtype=dtype).reshape(4, 3)
    write_store(tmp_path / "x", values, class_names=["a", "b"], class_counts=[1, 3], num_targets=num_targets)
    store = ClassStore.open(tmp_path / "x")
    numbers = store.vectors if kind == "vector" else store.rows
    np.testing.assert_array_equal(numbers, values)
    assert (numbers.dtype, store.shape) == (dtype, (3,) if kind == "vector" else (2, 1))
    assert not numbers.flags.owndata
    assert not numbers.flags.writeable
    store.verify()
    result = summary(store)
    assert (result["kind"], result["mean"]) == (kind, [4.5, 5.5, 6.5])
    with pytest.raises(UserError, match=f"holds {kind} examples, not image examples"):
        contact_sheet(store, tmp_path / "sheet.png")
    manifest = tmp_path / "x" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(content | {"shape": [4] if kind == "vector" else [3, 1]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"examples.arrow: does not match the manifest"):
        ClassStore.open(tmp_path / "x")
