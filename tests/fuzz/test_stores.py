"""Class stores: changed manifests and Arrow files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distmeta.config import RunConfig
from distmeta.config.load import to_yaml
from distmeta.data.store import write_store

from .conftest import Places
from .values import as_json, changed, changed_bytes, near

MANIFEST, EXAMPLES = "manifest.json", "examples.arrow"
CLASSES, EACH, SIZE = 8, 3, 6
FEW = {"shots": 1, "queries": 1, "eval_queries": 1}
JOBS: dict[str, dict[str, Any]] = {
    "images": {"source": "images", "store": "home/stores/images", "way": 2, **FEW},
    "vectors": {"source": "vectors", "store": "home/stores/vectors", "way": 2, "standardise": True, **FEW},
    "table": {"source": "table", "table": "home/stores/table", "standardise": True, **FEW},
}
JOB = {
    "name": "pictures",
    "model": {"kind": "mlp", "hidden": [2]},
    "engine": {"strategy": "loop"},
    "train": {"steps": 1, "tasks_per_step": 2},
    "runtime": {"executor": "local"},
    "evaluation": {"final_tasks": 2},
    "tracking": {"kind": "none"},
}


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy: a store of each kind, and a job on each of them that a task source takes."""
    folder = tmp_path_factory.mktemp("stores")
    pixels = np.random.default_rng(0).integers(0, 256, (CLASSES * EACH, 1, SIZE, SIZE), dtype=np.uint8)
    names = [f"class{index}" for index in range(CLASSES)]
    splits = {"fractions": {"train": [0, 1, 2], "val": [3, 4], "test": [5, 6, 7]}}
    numbers = np.random.default_rng(0).normal(size=(CLASSES * EACH, 3))
    for name, examples, num_targets in (
        ("images", pixels, 0),
        ("texts", [f"text {index}" for index in range(CLASSES * EACH)], 0),
        ("vectors", numbers.astype(np.float32), 0),
        ("table", numbers, 1),
    ):
        write_store(
            folder / "stores" / name,
            examples,
            class_names=names,
            class_counts=[EACH] * CLASSES,
            splits=splits,
            num_targets=num_targets,
        )
    for name, tasks in JOBS.items():
        (folder / f"{name}.yaml").write_text(to_yaml(RunConfig.model_validate(JOB | {"tasks": tasks})))
    return folder


def _column(data: st.DataObject) -> Any:
    """A column of another type, length or content."""
    rows = data.draw(st.sampled_from([0, 1, CLASSES * EACH, CLASSES * EACH + 1]))
    size = data.draw(st.sampled_from([1, SIZE * SIZE, SIZE * SIZE - 1]))
    pixels = np.zeros(rows * size, dtype=data.draw(st.sampled_from(["uint8", "int8", "float32"])))
    columns = [
        lambda: pa.FixedSizeListArray.from_arrays(pa.array(pixels), size),
        lambda: pa.FixedSizeListArray.from_arrays(
            pa.array(np.full(3 * rows, data.draw(st.sampled_from([0.0, np.nan, np.inf, 1e300])))), 3
        ),
        lambda: pa.array([[1] * size] * rows, pa.list_(pa.uint8())),
        lambda: pa.array([[1] * size] * (rows - 1) + [None] * min(rows, 1), pa.list_(pa.uint8(), size)),
        lambda: pa.array([[None] * size] * rows, pa.list_(pa.field("item", pa.uint8()), size)),
        lambda: pa.array(["x"] * rows, data.draw(st.sampled_from([pa.string(), pa.large_string()]))),
        lambda: pa.array([None] * rows, pa.large_string()),
        lambda: pa.array([b"\xff"] * rows, pa.large_binary()).view(pa.large_string()),
        lambda: pa.array(["x"] * rows).dictionary_encode(),
        lambda: pa.nulls(rows),
    ]
    return data.draw(st.sampled_from(columns))()


def _other_examples(path: Path, data: st.DataObject) -> None:
    column = _column(data)
    schema = pa.schema([pa.field("examples", column.type)], metadata={b"x": b"\xff"})
    compression = data.draw(st.sampled_from([None, "zstd", "lz4"]))
    stream = (data.draw(st.booleans()) and pa.ipc.new_stream) or pa.ipc.new_file
    with stream(str(path), schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(data.draw(st.sampled_from([0, 1, 1, 1, 2]))):
            writer.write_batch(pa.record_batch([column], schema=schema))


def _damage(folder: Path, data: st.DataObject) -> None:
    manifest, examples = folder / MANIFEST, folder / EXAMPLES
    change = data.draw(st.sampled_from(["manifest", "manifest", "text", "bytes", "bytes", "other", "file"]))
    if change == "manifest":
        manifest.write_bytes(as_json(data.draw(changed(json.loads(manifest.read_text())))))
    elif change == "text":
        manifest.write_bytes(data.draw(changed_bytes(manifest.read_bytes())))
    elif change == "bytes":
        examples.write_bytes(data.draw(changed_bytes(examples.read_bytes())))
    elif change == "other":
        _other_examples(examples, data)
    else:
        path = data.draw(st.sampled_from([manifest, examples]))
        path.unlink()
        data.draw(st.sampled_from([path.mkdir, path.touch, lambda: path.symlink_to(path.name), lambda: None]))()
    if examples.is_file() and manifest.is_file() and data.draw(st.booleans()):
        _vouch(manifest, examples, data)


def _vouch(path: Path, examples: Path, data: st.DataObject) -> None:
    """Make size and digest of the manifest those of the file."""
    try:
        content = json.loads(path.read_text())
        file = examples.read_bytes()
        content["examples"] = {"sha256": hashlib.sha256(file).hexdigest(), "num_bytes": len(file)}
        if data.draw(st.booleans()):
            content["shape"] = data.draw(near(content["shape"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    path.write_bytes(as_json(content))


COMMANDS = (
    ("data", "list"),
    ("data", "list", "--json"),
    ("data", "inspect", "images"),
    ("data", "inspect", "images", "--verify", "--json"),
    ("data", "inspect", "images", "--sheet", "sheet.png", "--per-class", "2"),
    ("data", "inspect", "texts", "--json"),
    ("data", "inspect", "texts", "--verify"),
    ("data", "inspect", "vectors", "--json"),
    ("data", "inspect", "table", "--json"),
    ("train", "images.yaml"),
    ("train", "vectors.yaml"),
    ("train", "table.yaml"),
)


@given(command=st.sampled_from(COMMANDS), data=st.data())
def test_commands_on_damaged_stores(
    places: Places, stores: Path, command: tuple[str, ...], data: st.DataObject
) -> None:
    with places() as place:
        shutil.copytree(stores, place.home, dirs_exist_ok=True)
        for name in JOBS:
            (place.home / f"{name}.yaml").rename(place.work / f"{name}.yaml")
        (place.work / "home").symlink_to(place.home)
        for name in ("images", "texts", "vectors", "table"):
            if name in command or "inspect" not in command:
                _damage(place.home / "stores" / name, data)
        outcome = place.run(*command)
        if outcome.code == 0 and "--json" in command:
            json.loads(outcome.stdout.splitlines()[-1])
