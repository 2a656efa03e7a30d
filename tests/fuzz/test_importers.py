"""Archives and raw inputs of the importers: zips, tables, images and folders."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from .conftest import Places
from .harness import Place
from .values import as_json, changed, changed_bytes, possible, scalars, texts

_MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "EPS")


def encoded(mode: str = "L", form: str = "PNG", size: tuple[int, int] = (6, 6), value: int = 0) -> bytes:
    """An encoded image; a PNG where the format has no such mode."""
    buffer = io.BytesIO()
    try:
        Image.new(mode, size, value).save(buffer, format=form)
    except (OSError, ValueError, KeyError):
        return encoded()
    return buffer.getvalue()


_whole_images = st.builds(
    encoded, st.sampled_from(_MODES), st.sampled_from(_FORMATS), st.sampled_from([(6, 6), (6, 7), (1, 1), (3000, 1)])
)
images = st.one_of(
    _whole_images,
    _whole_images.flatmap(changed_bytes),
    st.just(encoded()),
    st.just(encoded("1", size=(14_000, 14_000))),  # above Pillow's limit
    st.binary(max_size=20),
)
_few_images = st.one_of(st.just(encoded()), st.just(encoded()), images)

_options = st.lists(
    st.sampled_from(
        [
            ["--json"],
            ["--size", "4"],
            ["--size", "0"],
            ["--grey"],
            ["--seed", str(2**64 - 1)],
            ["--min-examples", "2"],
            ["--fractions", "1,0,0"],
            ["--fractions", "nan,0,1"],
            ["--name", "x"],
            ["--replace"],
        ]
    ),
    max_size=2,
).map(lambda options: [part for option in options for part in option])


def _import(place: Place, kind: str, source: str, *options: str) -> None:
    outcome = place.run("data", "import", kind, source, *options)
    if outcome.code == 0:
        assert place.run("data", "list", "--json").code == 0
        name = json.loads(place.run("data", "list", "--json").stdout)["stores"][0]["name"]
        assert place.run("data", "inspect", name, "--verify").code == 0


# --- zips ---

_MEMBERS = (
    "images_background/Latin/character01/0001_01.png",
    "images_background/Latin/character01/0001_02.png",
    "images_background/Latin/character02/0001_01.png",
    "images_background/La/tin/character02/0001_01.png",
    "images_background/../../neighbour/file.png",
    "/etc/passwd.png",
    "C:\\x.png",
    "images_background/Latin/character01/",
    "images_background/\x1b[31m/character01/0001_01.png",
    f"images_background/{'x' * 2000}/character01/0001_01.png",
    "readme.txt",
)


@st.composite
def _zip(draw: st.DrawFn) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(draw(st.integers(0, 4))):
            info = zipfile.ZipInfo(
                draw(st.one_of(st.sampled_from(_MEMBERS[:3]), st.sampled_from(_MEMBERS), texts.map(possible)))
            )
            info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
            content = draw(_few_images)
            kind = draw(st.sampled_from(["file"] * 6 + ["link", "bomb", "encrypted"]))
            if kind == "link":
                info.external_attr, content = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
            elif kind == "bomb":
                info.compress_type, content = zipfile.ZIP_DEFLATED, bytes(17 << 20)
            elif kind == "encrypted":
                info.flag_bits |= 1
            if info.filename not in archive.namelist():
                archive.writestr(info, content)
    content = buffer.getvalue()
    return draw(changed_bytes(content)) if draw(st.booleans()) else content


@given(first=_zip(), second=st.one_of(st.none(), _zip()), options=_options)
def test_zips(places: Places, first: bytes, second: bytes | None, options: list[str]) -> None:
    with places() as place:
        (place.work / "omniglot").mkdir()
        (place.work / "omniglot" / "images_background.zip").write_bytes(first)
        (place.work / "omniglot" / "images_evaluation.zip").write_bytes(second or _one_drawing())
        _import(place, "omniglot", "omniglot", *options)


def _one_drawing() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images_evaluation/Latin/character09/0001_01.png", encoded())
    return buffer.getvalue()


# --- tables ---

_cells = st.one_of(st.sampled_from(["a", "b", "1", "0.png", "../neighbour/file", "."]), texts)


def _lines(separator: str) -> st.SearchStrategy[bytes]:
    rows = st.lists(st.lists(_cells, min_size=1, max_size=3).map(separator.join), max_size=5)
    heads = st.sampled_from(
        ["text,label", "label,text", "image,label", "label", "label,label,text", "", "\ufefftext,label"]
    )
    return st.tuples(heads, rows).map(
        lambda parts: "\n".join([parts[0].replace(",", separator), *parts[1]]).encode(errors="surrogatepass")
    )


_objects = st.lists(
    st.one_of(
        st.fixed_dictionaries({"text": _cells, "label": _cells}),
        st.just({"text": "a", "label": 1}).flatmap(changed),
        scalars,
    ),
    max_size=5,
).map(lambda rows: b"\n".join(map(as_json, rows)))

_COLUMNS: tuple[Any, ...] = (
    pa.array(["a", "b", "a"]),
    pa.array(["a", "b", None]),
    pa.array([1, 2, 10**15]),
    pa.array([1.5, float("nan"), None]),
    pa.array([True, False, True]),
    pa.array([b"a", b"\xff", b""]),
    pa.array([["a"], [], None]),
    pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, float("inf")]]),
    pa.array([[1, 2], [3], []]),
    pa.array([[[1, 2], [3, 4]]] * 3),
    pa.array(["train", "val", "test"]),
    pa.array(["a", "b", "a"]).dictionary_encode(),
    pa.array([encoded()] * 3),
    pa.array([{"bytes": encoded(), "path": "x"}] * 3),
    pa.array([{"path": "x"}] * 3),
    pa.array([0, 1, 2], pa.timestamp("ns")),
    pa.nulls(3),
    pa.array([], pa.string()),
)


@st.composite
def _parquet(draw: st.DrawFn) -> bytes:
    columns = {name: draw(st.sampled_from(_COLUMNS)) for name in draw(st.sampled_from(["lt", "li", "l", "lit"]))}
    names = {"l": "label", "t": "text", "i": "image"}
    rows = min(map(len, columns.values()))
    table = pa.table({names[name]: column.slice(0, rows) for name, column in columns.items()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=draw(st.sampled_from(["none", "snappy", "zstd"])))
    content = buffer.getvalue()
    return draw(changed_bytes(content)) if draw(st.booleans()) else content


@given(suffix=st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), data=st.data(), options=_options)
def test_tables(places: Places, suffix: str, data: st.DataObject, options: list[str]) -> None:
    contents = {"csv": _lines(","), "tsv": _lines("\t"), "jsonl": _objects, "parquet": _parquet()}
    content = data.draw(contents[suffix])
    if suffix != "parquet" and data.draw(st.integers(0, 3)) == 0:
        content = data.draw(changed_bytes(content))
    columns = data.draw(
        st.sampled_from(
            [
                [],
                [],
                ["--image-column", "image"],
                ["--text-column", "label"],
                ["--inputs", "image"],
                ["--inputs", "text"],
                ["--inputs", "text,image"],
                ["--inputs", "text", "--split-column", "label"],
            ]
        )
    )
    with places() as place:
        (place.work / f"table.{suffix}").write_bytes(content)
        (place.work / "0.png").write_bytes(encoded())
        _import(place, "table", f"table.{suffix}", *columns, *options)


@given(table=_parquet(), data=st.data(), kind=st.sampled_from(["cifar_fs", "fc100"]))
def test_cifar(places: Places, table: bytes, data: st.DataObject, kind: str) -> None:
    classes: Any = {
        "fine": ["a", "b", "c"],
        "splits": {name: {"train": ["a"], "val": ["b"], "test": ["c"]} for name in ("cifar_fs", "fc100")},
    }
    if data.draw(st.booleans()):
        classes = data.draw(changed(classes))
    if data.draw(st.booleans()):
        buffer = io.BytesIO()
        labels = data.draw(st.sampled_from([[0, 1, 2], [0, 1, 3], [0, 0, 1], [-1, 0, 1]]))
        pq.write_table(
            pa.table({"label": labels, "image": data.draw(st.lists(_few_images, min_size=3, max_size=3))}), buffer
        )
        table = buffer.getvalue()
    with places() as place:
        (place.work / "cifar100.parquet").write_bytes(table)
        (place.work / "classes.json").write_bytes(as_json(classes))
        _import(place, kind, ".")


# --- folders of images ---

_names = st.one_of(
    st.sampled_from(["0.png", "1.JPG", "a.txt", ".hidden.png", "\udcff.png", "a\nb.png", "x" * 250]), texts
)


def _grow(folder: Path, data: st.DataObject) -> None:
    """Files, links, pipes and folders with odd names; names that a system refuses are left out."""
    for _ in range(data.draw(st.integers(1, 4))):
        parent = folder / data.draw(st.sampled_from(["cat", "cat", "dog", "\udcfe", ".", "cat/below", "\x1b[1m"]))
        name, kind = (
            data.draw(_names),
            data.draw(st.sampled_from(["image"] * 5 + ["link", "loop", "pipe", "folder", "out"])),
        )
        content = data.draw(_few_images)
        try:
            path = parent / name
            parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):  # writing to a pipe would wait for a reader
                continue
            if kind == "image":
                path.write_bytes(content)
            elif kind == "link":
                path.symlink_to("0.png")
            elif kind == "loop":
                path.symlink_to(".")
            elif kind == "out":
                path.symlink_to("../../neighbour/file")
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.mkdir()
        except (OSError, ValueError):
            continue


@given(data=st.data(), options=_options)
def test_folders(places: Places, data: st.DataObject, options: list[str]) -> None:
    with places() as place:
        _grow(place.work / "pets", data)
        _import(place, "images", "pets", *options)


@given(data=st.data(), extra=st.sampled_from([[], ["--json"], ["--out", "labels.csv"], ["--invert"]]))
def test_images_to_label(places: Places, pictures: Path, data: st.DataObject, extra: list[str]) -> None:
    with places() as place:
        os.symlink(pictures, place.work / "runs")
        (place.work / "query").mkdir()
        (place.work / "query" / "9.png").write_bytes(data.draw(_few_images))
        for name in ("cat", "dog"):
            (place.work / "support" / name).mkdir(parents=True)
            (place.work / "support" / name / "9.png").write_bytes(encoded(value=data.draw(st.sampled_from([0, 255]))))
        for folder in ("support", "query"):
            _grow(place.work / folder, data)
        outcome = place.run("adapt", "runs/letters", "--support", "support", "--query", "query", *extra)
        if outcome.code == 0 and extra == ["--json"]:
            assert set(json.loads(outcome.stdout)["labels"].values()) <= {"cat", "dog"}


# --- saved data sets and regression tables ---

_STATE = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
_INFO = {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}


def _arrow(table: Any, *, stream: bool, compression: str | None) -> bytes:
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(buffer, table.schema, options=options) as writer:
        writer.write_table(table)
    return buffer.getvalue()


@given(data=st.data(), options=_options)
def test_saved_data_sets(places: Places, data: st.DataObject, options: list[str]) -> None:
    columns = [data.draw(st.sampled_from(_COLUMNS)) for _ in range(2)]
    rows = min(map(len, columns))
    table = pa.table({name: each.slice(0, rows) for name, each in zip(("label", "image"), columns, strict=True)})
    content = _arrow(table, stream=data.draw(st.booleans()), compression=data.draw(st.sampled_from([None, "lz4"])))
    files = {"data-00000-of-00001.arrow": content, "state.json": as_json(_STATE), "dataset_info.json": as_json(_INFO)}
    damage = data.draw(st.sampled_from(["none", "none", "data", "data", "state", "info", "dictionary"]))
    if damage == "data":
        files["data-00000-of-00001.arrow"] = data.draw(changed_bytes(content))
    elif damage == "state":
        files["state.json"] = as_json(data.draw(changed(_STATE)))
    elif damage == "info":
        files["dataset_info.json"] = as_json(data.draw(changed(_INFO)))
    with places() as place:
        (place.work / "saved").mkdir()
        if damage == "dictionary":
            (place.work / "saved" / "train").mkdir()
            names = data.draw(changed({"splits": ["train", "test"]}))
            (place.work / "saved" / "dataset_dict.json").write_bytes(as_json(names))
        for name, each in files.items():
            (place.work / "saved" / ("train" if damage == "dictionary" else ".") / name).write_bytes(each)
        _import(place, "hf", "saved", *options)


_readings = st.one_of(st.sampled_from(["1", "-2.5", "1e300", "nan", "inf", "", "x", "0x1", "1_0"]), texts)


@given(data=st.data(), suffix=st.sampled_from(["csv", "jsonl", "arrow"]), options=_options)
def test_regression_tables(places: Places, data: st.DataObject, suffix: str, options: list[str]) -> None:
    names = data.draw(st.sampled_from([["group", "x", "target"], ["group", "target"], ["group", "x", "x", "target"]]))
    rows = data.draw(st.lists(st.lists(_readings, min_size=len(names), max_size=len(names)), max_size=4))
    if suffix == "csv":
        content = "\n".join(",".join(row) for row in [names, *rows]).encode(errors="surrogatepass")
    elif suffix == "jsonl":
        content = b"\n".join(as_json(dict(zip(names, row, strict=True))) for row in rows)
    else:
        columns = [data.draw(st.sampled_from(_COLUMNS)) for _ in names]
        shortest = min(map(len, columns))
        table = pa.Table.from_arrays([column.slice(0, shortest) for column in columns], names=names)
        content = _arrow(table, stream=False, compression=data.draw(st.sampled_from([None, "zstd"])))
    if data.draw(st.integers(0, 3)) == 0:
        content = data.draw(changed_bytes(content))
    columns = data.draw(st.sampled_from([[], ["--inputs", "x"], ["--target", "x"], ["--split-column", "x"]]))
    with places() as place:
        (place.work / f"waves.{suffix}").write_bytes(content)
        _import(place, "regression", f"waves.{suffix}", *columns, *options)
