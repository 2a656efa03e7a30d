"""Importers: stores read from good input, and error messages that name bad input."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distmeta.core.errors import UserError
from distmeta.data.catalog import import_store
from distmeta.data.importers import ImportOptions

pytestmark = pytest.mark.usefixtures("home")
Png = Callable[..., bytes]


def _rejected(
    kind: str, source: Path, message: str, *, min_examples: int = 1, options: ImportOptions | None = None
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_store(kind, source, name="bad", options=options, min_examples=min_examples)
    assert "\n" not in str(caught.value)


# Omniglot


def test_omniglot_is_inverted_and_resized(omniglot_folder: Path) -> None:
    store = import_store("omniglot", omniglot_folder, options=ImportOptions(size=4))
    assert (store.name, store.shape, store.num_examples) == ("omniglot", (1, 4, 4), 6)
    assert store.class_names == ["Latin/character01", "Latin/character02", "Tengwar/character01"]
    assert store.images[0].min() == 255  # drawer 1 is all ink (0 in the PNG)
    assert store.images[1].max() == 0
    assert list(store.splits) == ["fractions"]  # not the 1,623 characters that the split set omniglot is defined for
    assert import_store("omniglot", omniglot_folder.parent, name="again").shape == (1, 28, 28)


def test_omniglot_by_alphabets_keeps_the_zips_apart(omniglot_folder: Path) -> None:
    store = import_store("omniglot_alphabets", omniglot_folder, options=ImportOptions(size=4))
    names = {
        split: [store.class_names[i] for i in store.split("omniglot_alphabets", split)] for split in ("train", "test")
    }
    with zipfile.ZipFile(omniglot_folder / "images_background.zip") as archive:
        background = {"/".join(name.split("/")[1:3]) for name in archive.namelist() if name.endswith(".png")}
    assert set(names["train"]) == background
    assert set(names["test"]) == set(store.class_names) - background


def test_omniglot_shrinks_by_averaging(tmp_path: Path, omniglot_folder: Path) -> None:
    checks = Image.fromarray(np.indices((8, 8)).sum(0) % 2 == 0)
    buffer = io.BytesIO()
    checks.save(buffer, format="PNG")
    with zipfile.ZipFile(omniglot_folder / "images_background.zip", "w") as archive:
        archive.writestr("images_background/Latin/character01/0001_01.png", buffer.getvalue())
    images = import_store("omniglot", omniglot_folder, options=ImportOptions(size=2)).images
    assert 100 < images[0].mean() < 155


def test_omniglot_truncated_zip_is_named(omniglot_folder: Path) -> None:
    path = omniglot_folder / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-30])
    _rejected("omniglot", omniglot_folder, r"images_evaluation.zip: the zip is truncated or damaged")


def test_omniglot_damaged_member_is_named(omniglot_folder: Path) -> None:
    path = omniglot_folder / "images_evaluation.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(content)
    _rejected("omniglot", omniglot_folder, r"images_evaluation.zip: the zip is truncated or damaged: Bad CRC-32")


def test_omniglot_missing_zip_is_named(omniglot_folder: Path) -> None:
    (omniglot_folder / "images_evaluation.zip").unlink()
    _rejected("omniglot", omniglot_folder, r"images_evaluation.zip: no such file; allowed: a folder with images_back")


@pytest.mark.parametrize(
    "member", ["/etc/x.png", "../x.png", "images_background/../../x.png", "C:/x.png", "a\\..\\x.png"]
)
def test_zip_members_that_leave_the_zip_are_refused(omniglot_folder: Path, member: str) -> None:
    with zipfile.ZipFile(omniglot_folder / "images_background.zip", "a") as archive:
        archive.writestr(member, b"")
    _rejected("omniglot", omniglot_folder, r"images_background.zip: member '.*' points out of the zip")


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        (
            "images_background/Latin/a.png",
            b"",
            r"images_background.zip: 'images_background/Latin/a.png' is not Alphabet",
        ),
        ("images_background/Latin/character01/9.png", b"no", r"Latin/character01/9.png: the image cannot be decoded"),
    ],
)
def test_unexpected_zip_members_are_named(omniglot_folder: Path, member: str, content: bytes, message: str) -> None:
    with zipfile.ZipFile(omniglot_folder / "images_background.zip", "a") as archive:
        archive.writestr(member, content)
    _rejected("omniglot", omniglot_folder, message)


def test_a_zip_without_images_is_named(omniglot_folder: Path) -> None:
    with zipfile.ZipFile(omniglot_folder / "images_background.zip", "w") as archive:
        archive.writestr("read.me", b"")
    _rejected("omniglot", omniglot_folder, r"images_background.zip: holds no PNG image")


# CIFAR-FS and FC100


@pytest.fixture
def cifar_folder(tmp_path: Path, png: Png) -> Path:
    """Three classes of two 8x8 images, rows out of order."""
    lists = {"train": ["ant"], "val": ["cow"], "test": ["bee"]}
    classes = {"fine": ["ant", "bee", "cow"], "splits": {"cifar_fs": lists, "fc100": lists}}
    folder = tmp_path / "cifar100"
    folder.mkdir()
    (folder / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    labels = [2, 0, 1, 1, 0, 2]
    table = pa.table({"label": pa.array(labels, pa.uint8()), "image": [png(10 * row) for row in range(6)]})
    pq.write_table(table, folder / "cifar100.parquet")
    return folder


@pytest.mark.parametrize("kind", ["cifar_fs", "fc100"])
def test_cifar_rows_are_sorted_by_class(cifar_folder: Path, kind: str) -> None:
    store = import_store(kind, cifar_folder)
    assert store.shape == (3, 8, 8)
    assert store.images[:, 0, 0, 0].tolist() == [10, 40, 20, 30, 0, 50]
    assert store.splits == {kind: {"train": [0], "val": [2], "test": [1]}}


def test_cifar_bad_input_is_named(cifar_folder: Path, png: Png) -> None:
    table = cifar_folder / "cifar100.parquet"
    pq.write_table(pa.table({"label": [0, 1], "image": [png(), png()]}), table)
    _rejected("fc100", cifar_folder, r"cifar100.parquet: class 'cow' has no image")
    pq.write_table(pa.table({"label": [0, 1, 2, 3], "image": [png()] * 4}), table)
    _rejected("fc100", cifar_folder, r"cifar100.parquet: label 3 has no name in classes.json")
    pq.write_table(pa.table({"label": [0, 1, 2], "image": [png(), b"junk", png()]}), table)
    _rejected("fc100", cifar_folder, r"cifar100.parquet, row 1: the image cannot be decoded")
    pq.write_table(pa.table({"label": [0, 1, 2]}), table)
    _rejected("fc100", cifar_folder, r"cifar100.parquet: has no column")
    table.write_bytes(b"PAR1")
    _rejected("fc100", cifar_folder, r"cifar100.parquet: cannot be read")
    (cifar_folder / "classes.json").write_text("{}", encoding="utf-8")
    _rejected("fc100", cifar_folder, r"classes.json: has no 'fine' or no 'splits.fc100' list")
    (cifar_folder / "classes.json").write_text("{", encoding="utf-8")
    _rejected("fc100", cifar_folder, r"classes.json: cannot be read")


def test_cifar10_has_training_images_before_test_images(tmp_path: Path, png: Png) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (folder / "classes.json").write_text(json.dumps({"classes": ["ant", "bee"]}), encoding="utf-8")
    columns = {
        "split": ["test", "train", "train", "test"],
        "label": [0, 1, 0, 0],
        "image": [png(9 * i) for i in range(4)],
    }
    encoded = {**columns, "split": pa.array(columns["split"]).dictionary_encode()}
    pq.write_table(pa.table(encoded), folder / "cifar10.parquet")
    store = import_store("cifar10", folder)
    assert (store.shape, store.class_names) == ((3, 8, 8), ["ant", "bee"])
    assert store.images[:, 0, 0, 0].tolist() == [18, 0, 27, 9]
    assert store.manifest.parts == {"train": [1, 1], "test": [2, 0]}
    pq.write_table(pa.table(columns | {"split": ["test", "train", "valid", "test"]}), folder / "cifar10.parquet")
    _rejected("cifar10", folder, r"cifar10.parquet: unknown split 'valid'; allowed: train or test")
    pq.write_table(pa.table({name: columns[name] for name in ("label", "image")}), folder / "cifar10.parquet")
    _rejected("cifar10", folder, r"cifar10.parquet: has no column 'split'")
    (folder / "classes.json").write_text("{}", encoding="utf-8")
    _rejected("cifar10", folder, r"classes.json: has no 'classes' list")


# Folders of images


def test_image_folder(image_folder: Path) -> None:
    (image_folder / ".hidden").mkdir()
    (image_folder / "cat" / "notes.txt").write_text("not an image", encoding="utf-8")
    store = import_store("images", image_folder)
    assert (store.name, store.shape, store.class_names) == ("pets", (3, 8, 8), ["cat", "dog"])
    assert store.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    small = import_store("images", image_folder, name="small", options=ImportOptions(size=3, grey=True))
    assert small.shape == (1, 3, 3)
    assert small.images[4].tolist() == [[[101] * 3] * 3]
    assert small.manifest.provenance.sources == store.manifest.provenance.sources


def test_image_folder_bad_input_is_named(image_folder: Path, png: Png) -> None:
    _rejected("images", image_folder, r"pets: class 'cat' has 3 examples, 4 are needed", min_examples=4)
    dog = image_folder / "dog" / "1.png"
    dog.write_bytes(png(size=(8, 9)))
    _rejected("images", image_folder, r"dog/1.png: is 9x8 pixels, the first image 8x8; allowed: .* --size")
    dog.write_bytes(png(mode="I;16"))
    _rejected("images", image_folder, r"dog/1.png: has pixels of mode I;16")
    dog.write_bytes(png()[:-30])
    _rejected("images", image_folder, r"dog/1.png: the image cannot be decoded")
    dog.write_bytes(b"")
    _rejected("images", image_folder, r"dog/1.png: the image cannot be decoded")
    (image_folder / "eel").mkdir()
    _rejected("images", image_folder, r"pets/eel: class 'eel' holds no image")
    _rejected("images", image_folder / "cat", r"pets/cat: holds no sub-folder")
    _rejected("images", dog, r"1.png: no such folder")


# Tables


def test_csv_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "mail.csv"
    path.write_text('text,label\n"two\nlines",10\n007,9\nhallo,10\n', encoding="utf-8")
    store = import_store("table", path)
    assert (store.name, store.kind, store.class_names) == ("mail", "text", ["9", "10"])
    assert store.texts.to_pylist() == ["007", "two\nlines", "hallo"]


def test_jsonl_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "mail.jsonl"
    path.write_text('{"q": "a", "intent": "x"}\n{"q": "b", "intent": "w"}\n', encoding="utf-8")
    store = import_store("table", path, options=ImportOptions(text_column="q", label_column="intent"))
    assert (store.class_names, store.texts.to_pylist()) == (["w", "x"], ["b", "a"])


def test_parquet_of_encoded_images(tmp_path: Path, png: Png) -> None:
    path, options = tmp_path / "pets.parquet", ImportOptions(image_column="image", grey=True)
    plain = [png(3), png(1), png(2)]
    pq.write_table(pa.table({"image": plain, "label": [1, 0, 0]}), path)
    store = import_store("table", path, options=options)
    assert store.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    pq.write_table(pa.table({"image": [{"bytes": data, "path": None} for data in plain], "label": [1, 0, 0]}), path)
    again = import_store("table", path, name="structs", options=options)
    np.testing.assert_array_equal(store.images, again.images)


def test_csv_of_image_paths(image_folder: Path) -> None:
    path = image_folder / "index.csv"
    path.write_text("file,label\ncat/2.png,cat\ndog/0.png,dog\n", encoding="utf-8")
    options = ImportOptions(image_column="file", grey=True)
    assert import_store("table", path, options=options).images[:, 0, 0, 0].tolist() == [2, 100]
    path.write_text("file,label\ncat/2.png,cat\ncat/9.png,dog\n", encoding="utf-8")
    _rejected("table", path, r"index.csv, row 1 \(cat/9.png\): the image cannot be decoded", options=options)
    for escape in ("../secret.png", "/etc/passwd"):
        path.write_text(f"file,label\n{escape},cat\n", encoding="utf-8")
        _rejected("table", path, rf"index.csv, row 0 .*: image path '{escape}' leaves the folder", options=options)
    (image_folder / "link.png").symlink_to("/etc/passwd")
    path.write_text("file,label\nlink.png,cat\n", encoding="utf-8")
    _rejected("table", path, r"index.csv, row 0 .*: image path 'link.png' leaves the folder", options=options)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "text,lable\nx,y\n", {}, r"a.csv: has no column 'label'; allowed: did you mean 'lable'\?"),
        ("a.csv", "txet,label\nx,y\n", {}, r"a.csv: has no column 'text'; allowed: did you mean 'txet'\?"),
        ("a.csv", "text,label\nx,\n", {}, r"a.csv: column 'label' is empty in row 0"),
        ("a.csv", "text,label\nx,y\n ,y\n", {}, r"a.csv: column 'text' is empty in row 1"),
        ("a.csv", "text,label\n", {}, r"a.csv: holds no row"),
        ("a.csv", "", {}, r"a.csv: cannot be read"),
        ("a.csv", "text,label\nx\n", {}, r"a.csv: cannot be read"),
        ("a.jsonl", "{", {}, r"a.jsonl: cannot be read"),
        ("a.jsonl", '{"text": [1], "label": "a"}', {}, r"a.jsonl: cannot be read: line 1, 'text' is no text"),
        (
            "a.jsonl",
            '{"i": 1, "label": "a"}',
            {"image_column": "i"},
            r"a.jsonl, row 0 \(1\): the image cannot be decoded: cannot be read: No such file",
        ),
        ("a.parquet", "PAR1", {}, r"a.parquet: cannot be read"),
        ("a.xls", "", {}, r"a.xls: a table of kind '.xls'; allowed: .csv, .tsv, .parquet, .jsonl"),
        (
            "a.csv",
            "text,label\nx,y\n",
            {"text_column": "a", "image_column": "b"},
            "both --text-column and --image-column",
        ),
        ("a.csv", "text,label\nx,y\n", {"grey": True}, "--size and --grey need --image-column"),
    ],
)
def test_table_bad_input_is_named(
    tmp_path: Path, name: str, content: str, options: dict[str, str], message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    _rejected("table", tmp_path / name, message, options=ImportOptions(**options))  # type: ignore[arg-type]
