"""Raw files that are damaged, huge or made to harm, and stores that do not hold what their manifest says."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distmeta.core.errors import UserError
from distmeta.data.catalog import import_store, list_stores, open_store
from distmeta.data.importers import ImportOptions, decode
from distmeta.data.inspect import contact_sheet, summary
from distmeta.data.store import ClassStore, write_store

Png = Callable[..., bytes]
pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.timeout(30)]


def rejected(kind: str, source: Path, message: str, **options: Any) -> None:
    """The import fails with one short line, and makes nothing."""
    with pytest.raises(UserError, match=message) as caught:
        import_store(kind, source, name="new", options=ImportOptions(**options))
    assert len(str(caught.value)) < 3000
    assert list_stores() == []


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- tables ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label,text\na,b,c\n", r"a.csv: has 2 columns 'text'; allowed: one of that name"),
        ("a.csv", "text,label,label\na,b,c\n", r"a.csv: has 2 columns 'label'"),
        ("a.csv", "text,label\nä,b\n".encode("latin-1"), r"a.csv: cannot be read: .*UTF8"),
        ("a.csv", "täxt,label\na,b\n".encode("latin-1"), r"a.csv: cannot be read: 'utf-8' codec"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), r"a.csv: cannot be read"),
        (
            "a.csv",
            f"text,label\na,{'9' * 5000}\n",
            r"column 'label': a class name of 5000 characters \('9+...'\); allow",
        ),
        ("a.jsonl", f'{{"text": {"[" * 100_000}{"]" * 100_000}, "label": "a"}}', r"a.jsonl: cannot be read: line 1: "),
        ("a.jsonl", '{"text": "a", "label": "\\ud800"}', r"a.jsonl: cannot be read: .*surrogates"),
        (
            "a.jsonl",
            '{"text": "a", "label": ' + "9" * 5000 + "}",
            r"a.jsonl: cannot be read: line 1: Exceeds the limit",
        ),
        ("a.jsonl", '\n{"text": "a", "label": {"b": 1}}', r"a.jsonl: cannot be read: line 2, 'label' is no text"),
        ("a.jsonl", "[1]", r"a.jsonl: cannot be read: line 1 holds no JSON object"),
        ("a.jsonl", '{"text": "a", "label": "ä"}'.encode("latin-1"), r"a.jsonl: cannot be read: line 1: 'utf-8' codec"),
        ("a.parquet", b"PAR1" + bytes(range(200)) + b"PAR1", r"a.parquet: cannot be read"),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    rejected("table", write(tmp_path / name, content), message)


def test_a_parquet_table_with_a_column_twice(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.table(columns, names=["text", "label", "label"]), tmp_path / "a.parquet")
    rejected("table", tmp_path / "a.parquet", "a.parquet: has 2 columns 'label'")


def test_labels_that_are_not_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": pa.array([b"\xff"])}), tmp_path / "a.parquet")
    rejected("table", tmp_path / "a.parquet", "a.parquet: column 'label' holds binary, not text")


def test_values_of_json_lines_as_text(tmp_path: Path) -> None:
    rows = [("a", 10), (2.5, 9), (True, 10.0), ("b", 1)]
    content = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    store = import_store("table", write(tmp_path / "a.jsonl", content))
    assert store.class_names == ["1", "9", "10"]
    assert store.texts.to_pylist() == ["b", "2.5", "a", "true"]


def test_many_labels_that_are_numbers(tmp_path: Path) -> None:
    rows = "".join(f"t,{label}\n" for label in range(20_000))
    started = time.perf_counter()
    store = import_store("table", write(tmp_path / "a.csv", f"text,label\n{rows}"))
    assert time.perf_counter() - started < 10
    assert store.class_names == [str(label) for label in range(20_000)]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pipe", r"a.csv, row 0 \(pipe\): the image cannot be decoded: is a pipe or a device; allowed: a file"),
        ("loop", r"the image cannot be decoded: cannot be read: Too many levels of symbolic links"),
        ("folder", r"the image cannot be decoded: is a folder"),
        ("n" * 300, r"the image cannot be decoded: cannot be read: File name too long"),
        ("\0", r"the image cannot be decoded: embedded null byte"),
        ("large", r"the image cannot be decoded: has 1000000000 bytes; allowed: at most 268435456"),
    ],
)
def test_images_of_a_table(tmp_path: Path, path: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1_000_000_000)
    table = write(tmp_path / "a.csv", f"path,label\n{path},a\n")
    rejected("table", table, message, image_column="path")


# --- images ---


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its content does not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (declared_png(10_000, 10_000), "the image is too large to be decoded; allowed: at most 89478485 pixels"),
        (declared_png(30_000, 30_000), "the image is too large to be decoded"),
        (declared_png(2**31 - 1, 2**31 - 1), "the image is too large to be decoded"),
        (declared_png(70_000, 1), "the image cannot be decoded"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "the image cannot be decoded: unknown format; allowed: BMP",
        ),
        (b"", "the image cannot be decoded: unknown format"),
    ],
)
def test_images(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path / "raw" / "a" / "1.png", content)
    rejected("images", tmp_path / "raw", f"a/1.png: {message}")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with write(tmp_path / "raw" / "a" / "1.png", b"").open("wb") as file:
        file.truncate(7_000_000_000)
    rejected("images", tmp_path / "raw", "a/1.png: has 7000000000 bytes; allowed: at most 268435456")


def test_names_of_files_and_folders_that_are_not_text(tmp_path: Path, png: Png) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder / "a" / os.fsdecode(b"\xff.png"), png())
    store = import_store("images", folder, name="strange")
    assert store.manifest.provenance.sources[0].name == "caf\\udce9/ (1 images)"
    ClassStore.open(store.path)
    write(folder / os.fsdecode(b"\xe9") / "1.png", png())
    with pytest.raises(UserError, match=r"the class name '\\udce9' is not UTF-8"):
        import_store("images", folder, name="new")
    write(tmp_path / os.fsdecode(b"t\xff.csv"), "text,label\na,b\n")
    assert import_store("table", tmp_path / os.fsdecode(b"t\xff.csv"), name="table").num_examples == 1


def test_a_home_that_is_not_text(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / os.fsdecode(b"\xff")))
    write(tmp_path / "raw" / "a" / "1.png", png())
    assert import_store("images", tmp_path / "raw").num_examples == 1
    assert open_store("raw").images.shape == (1, 3, 8, 8)


def test_warnings_of_the_decoder_are_not_shown(tmp_path: Path, png: Png, recwarn: pytest.WarningsRecorder) -> None:
    image = png(mode="P")
    write(tmp_path / "raw" / "a" / "1.png", image)
    import_store("images", tmp_path / "raw")
    assert not recwarn.list
    assert decode.Image.MAX_IMAGE_PIXELS == 89478485


# --- Omniglot ---


def omniglot(folder: Path, png: Png, *members: tuple[str, bytes]) -> Path:
    """Two zips; the first one with these members."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "images_background.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    with zipfile.ZipFile(folder / "images_evaluation.zip", "w") as archive:
        archive.writestr("images_evaluation/A/character02/1.png", png())
    return folder


def test_a_member_that_expands_too_far(tmp_path: Path, png: Png) -> None:
    name = "images_background/A/character01/1.png"
    source = omniglot(tmp_path / "raw", png, (name, bytes(20 << 20)))
    rejected("omniglot", source, r"member '.*1.png' expands to 20971520 bytes; allowed: drawings of at most 16777216")
    path = source / "images_background.zip"
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 16)  # the size that the directory claims
    path.write_bytes(content)
    rejected("omniglot", source, "expands to 4294967280 bytes")


def test_a_zip_that_expands_too_far(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmeta.data.importers.omniglot.MAX_ZIP_BYTES", 5000)
    members = [(f"images_background/A/character01/{number}.png", bytes(1000)) for number in range(6)]
    rejected("omniglot", omniglot(tmp_path / "raw", png, *members), "images_background.zip: expands to 6000 bytes")


def test_every_damaged_byte_of_a_zip_is_one_line(tmp_path: Path, png: Png) -> None:
    source = omniglot(tmp_path / "raw", png, ("images_background/A/character01/1.png", png()))
    path = source / "images_background.zip"
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            import_store("omniglot", source, name=f"at-{position}")
        except UserError as error:
            assert "\n" not in str(error)


# --- CIFAR ---

NAMES = {"fine": ["ant", "bee"], "splits": {"fc100": {"train": ["ant"], "val": [], "test": ["bee"]}}}


def cifar(folder: Path, classes: object, table: pa.Table) -> Path:
    write(folder / "classes.json", classes if isinstance(classes, str | bytes) else json.dumps(classes))
    pq.write_table(table, folder / "cifar100.parquet")
    return folder


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "classes.json: cannot be read"),
        ("[" * 100_000, "classes.json: cannot be read"),
        (b'{"fine": "\xff"}', "classes.json: cannot be read: 'utf-8' codec"),
        ('{"fine": ' + "9" * 5000 + "}", "classes.json: cannot be read: Exceeds the limit"),
        ("[]", "classes.json: has no 'fine' or no 'splits.fc100' lists of names"),
        ({**NAMES, "fine": "ab"}, "classes.json: has no 'fine'"),
        ({**NAMES, "fine": [1, 2]}, "classes.json: has no 'fine'"),
        ({**NAMES, "fine": ["ant", "ant"]}, "classes.json: 'fine' is empty or holds a name twice"),
        ({**NAMES, "fine": []}, "classes.json: 'fine' is empty"),
        ({**NAMES, "fine": ["a" * 5000, "bee"]}, "classes.json: a class name of 5000 characters"),
        ({**NAMES, "fine": ["\ud800", "bee"]}, "classes.json: the class name '.*' is not UTF-8"),
        ({**NAMES, "splits": {}}, "classes.json: has no 'fine' or no 'splits.fc100'"),
        ({**NAMES, "splits": []}, "classes.json: has no 'fine' or no 'splits.fc100'"),
        ({**NAMES, "splits": {"fc100": {"train": "ant"}}}, "classes.json: has no 'fine' or no 'splits.fc100'"),
        ({**NAMES, "splits": {"fc100": {"train": ["ant"]}}}, "classes.json: split set 'fc100' has no 'val' list"),
        (
            {**NAMES, "splits": {"fc100": {"train": ["ant"], "val": ["ant"], "test": []}}},
            "classes.json: split set 'fc100' lists class 'ant' twice",
        ),
    ],
)
def test_cifar_classes(tmp_path: Path, png: Png, classes: object, message: str) -> None:
    rejected("fc100", cifar(tmp_path / "raw", classes, pa.table({"label": [0, 1], "image": [png()] * 2})), message)


@pytest.mark.parametrize(
    ("labels", "images", "message"),
    [
        ([-1, 1], [b"a", b"b"], "cifar100.parquet: label -1 has no name in classes.json"),
        ([0, 10**12], [b"a", b"b"], "cifar100.parquet: label 1000000000000 has no name"),
        ([0, None], [b"a", b"b"], "cifar100.parquet: holds images of type binary, 1 empty labels"),
        (["x", "y"], [b"a", b"b"], "cifar100.parquet: cannot be read: Failed to parse"),
        ([0.5, 1.0], [b"a", b"b"], "cifar100.parquet: cannot be read: Float value"),
        ([0, 1], ["a", "b"], "cifar100.parquet: holds images of type string"),
        ([0, 1], [{"bytes": b"a"}, {"bytes": b"b"}], "cifar100.parquet: holds images of type struct"),
        ([0, 1], [b"a", None], "cifar100.parquet: holds images of type binary, 0 empty labels, 1 empty images"),
        (pa.array([], pa.int64()), pa.array([], pa.binary()), "cifar100.parquet: class 'ant' has no image"),
    ],
)
def test_cifar_tables(tmp_path: Path, labels: Any, images: Any, message: str) -> None:
    rejected("fc100", cifar(tmp_path / "raw", NAMES, pa.table({"label": labels, "image": images})), message)


# --- stores ---


def edit(store: ClassStore, **fields: object) -> None:
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": [1, 2**40, 2**40]}, r"manifest: shape \[1, 1099511627776, 1099511627776\] is not that of image"),
        ({"shape": [1, 2, 4]}, "examples.arrow: does not match the manifest"),
        ({"num_examples": 10**300, "class_counts": [10**300 - 2, 1, 1]}, "examples.arrow: does not match the manifest"),
        ({"kind": "text", "shape": []}, "examples.arrow: does not match the manifest"),
        ({"name": "n" * 5000}, "name: String should have at most 255 characters"),
        ({"splits": {"a": {"train": [10**400]}}}, "manifest: split set 'a' names a class that does not exist"),
    ],
)
def test_a_manifest_that_does_not_fit(store: ClassStore, fields: dict[str, object], message: str) -> None:
    edit(store, **fields)
    with pytest.raises(UserError, match=message):
        ClassStore.open(store.path)


def test_compressed_images_are_refused(store: ClassStore, tmp_path: Path) -> None:
    """They would be expanded when they are read, to any size."""
    column = store._column
    path = store.path / "examples.arrow"
    schema = pa.schema([pa.field("image", column.type, nullable=False)])
    rows = 10_000
    large = pa.concat_arrays([column] * (rows // len(column)))
    with pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(pa.record_batch([large], schema=schema))
    examples = {"sha256": "", "num_bytes": path.stat().st_size}
    edit(store, num_examples=len(large), class_counts=[len(large) - 2, 1, 1], examples=examples)
    with pytest.raises(UserError, match=r"examples.arrow: does not match the manifest"):
        ClassStore.open(store.path)


def test_every_damaged_byte_of_a_store_is_one_line(tmp_path: Path) -> None:
    """The manifest's digest is compared by `verify` alone, so a damaged file is opened."""
    store = write_store(tmp_path / "texts", ["a", "bc", "d"], class_names=["x", "y"], class_counts=[1, 2])
    path = store.path / "examples.arrow"
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        try:
            summary(ClassStore.open(store.path))
        except UserError as error:
            assert "\n" not in str(error)


def test_what_cannot_be_read_back_does_not_replace_a_store(
    store: ClassStore, pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    monkeypatch.setattr("distmeta.data.manifest.FORMAT_VERSION", 2)
    with pytest.raises(UserError, match="manifest version 1; allowed: version 2"):
        write_store(store.path, pixels, class_names=["a"], class_counts=[9], replace=True)
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before
    assert [path.name for path in store.path.parent.iterdir()] == ["tiny"]


def test_a_store_behind_a_link_is_replaced_alone(
    store: ClassStore, tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "linked").symlink_to(store.path)
    write_store(tmp_path / "stores" / "linked", pixels, class_names=["a"], class_counts=[9], replace=True)
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["linked"]
    assert ClassStore.open(store.path).class_names == ["a", "b", "c"]


def test_a_contact_sheet_of_a_possible_size(tmp_path: Path) -> None:
    large = write_store(tmp_path / "large", np.zeros((1, 1, 3000, 3000), np.uint8), class_names=["a"], class_counts=[1])
    with pytest.raises(
        UserError, match="--sheet: the contact sheet has 300202 x 3004 pixels; allowed: at most 100000000"
    ):
        contact_sheet(large, tmp_path / "sheet.png", per_class=100)
    two = write_store(tmp_path / "two", np.zeros((1, 2, 3, 3), np.uint8), class_names=["a"], class_counts=[1])
    with pytest.raises(UserError, match="data 'two': holds images of 2 channels; allowed: 1 or 3"):
        contact_sheet(two, tmp_path / "sheet.png")


def test_what_the_decoder_logs_is_raised_alone(
    tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "TIFF")
    content = bytearray(buffer.getvalue())
    samples = content.find(struct.pack("<HHI", 277, 3, 1))  # the number of samples of a pixel
    content[samples + 8 : samples + 10] = struct.pack("<H", 300)
    write(tmp_path / "raw" / "a" / "1.tif", bytes(content))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    rejected("images", tmp_path / "raw", "a/1.tif: the image cannot be decoded")
    assert capsys.readouterr().err == ""
