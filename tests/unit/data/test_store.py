"""The class store: round trip, zero copy, atomic writes, error messages of damaged stores."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from distmeta.core.errors import UserError
from distmeta.data import store as store_module
from distmeta.data.store import ClassStore, require_examples, write_store


def test_images_round_trip(store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    assert (store.kind, store.shape, store.num_examples, store.class_names) == ("image", (1, 2, 3), 9, ["a", "b", "c"])
    assert store.name == "tiny"
    assert store.class_offsets.dtype == np.int64
    assert store.class_offsets.tolist() == [0, 2, 5, 9]
    np.testing.assert_array_equal(store.images, pixels)
    store.verify()


def test_three_channels_keep_their_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 7), dtype=np.uint8)
    # A view with strides, as the decoder makes it.
    view = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    rgb = write_store(tmp_path / "rgb", view, class_names=["x", "y"], class_counts=[2, 2])
    np.testing.assert_array_equal(rgb.images, images)


def test_texts_round_trip(tmp_path: Path) -> None:
    words = write_store(tmp_path / "words", ["eins", "zwölf\nzeilen", ""], class_names=["x", "y"], class_counts=[1, 2])
    assert (words.kind, words.shape) == ("text", ())
    assert words.texts.to_pylist() == ["eins", "zwölf\nzeilen", ""]
    with pytest.raises(UserError, match="data 'words': holds text examples, not image examples"):
        _ = words.images


def test_images_are_views_of_the_mapped_file(store: ClassStore) -> None:
    first, second = store.images, store.images
    assert not first.flags.owndata
    assert not first.flags.writeable
    assert np.shares_memory(first, second)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(store.path / "examples.arrow") in maps
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_images_outlive_the_store(store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    images = ClassStore.open(store.path).images
    np.testing.assert_array_equal(images, pixels)


def test_a_store_is_pickled_as_its_path(store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).images, pixels)


def test_splits_are_looked_up_by_name(store: ClassStore) -> None:
    assert store.split("fractions", "val").tolist() == [2]
    assert store.split("fractions", "val").dtype == np.int64
    with pytest.raises(UserError, match=r"data 'tiny': no split set 'fraction'; allowed: did you mean 'fractions'\?"):
        store.split("fraction", "val")
    with pytest.raises(UserError, match=r"no split 'vall' in split set 'fractions'; allowed: did you mean 'val'\?"):
        store.split("fractions", "vall")


def test_examples_for_tests_are_kept_apart(tmp_path: Path, store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    fields: dict[str, Any] = {"class_names": ["a", "b", "c"], "class_counts": [2, 3, 4]}
    parts = {"train": [2, 1, 3], "test": [0, 2, 1]}
    divided = write_store(tmp_path / "divided", pixels, parts=parts, **fields)
    assert ClassStore.open(divided.path).manifest.parts == parts
    assert store.manifest.parts == {}
    assert "parts" not in json.loads((store.path / "manifest.json").read_text())
    for wrong in (
        {"train": [2, 1, 3], "test": [0, 2, 2]},
        {"train": [3, 1, 3], "test": [-1, 2, 1]},
        {"train": [2, 3, 4]},
    ):
        with pytest.raises(ValueError, match="parts must"):
            write_store(tmp_path / "wrong", pixels, parts=wrong, **fields)


def test_the_first_class_with_too_few_examples_is_named(store: ClassStore) -> None:
    counts = store.manifest.class_counts
    require_examples(store.class_names, counts, 2, "task")
    with pytest.raises(UserError, match="task: class 'a' has 2 examples, 3 are needed"):
        require_examples(store.class_names, counts, 3, "task")


def test_the_same_data_give_the_same_bytes(tmp_path: Path, store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    again = write_store(
        tmp_path / "other" / "tiny", pixels, class_names=["a", "b", "c"], class_counts=[2, 3, 4], splits=store.splits
    )
    for name in ("manifest.json", "examples.arrow"):
        assert (again.path / name).read_bytes() == (store.path / name).read_bytes()
    assert str(tmp_path) not in (again.path / "manifest.json").read_text(encoding="utf-8")


def test_a_store_is_replaced_only_when_asked(store: ClassStore, pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match="a store of this name exists; allowed: --replace"):
        write_store(store.path, pixels[:2], class_names=["z"], class_counts=[2])
    mapped = store.images
    replaced = write_store(store.path, pixels[:2], class_names=["z"], class_counts=[2], replace=True)
    assert replaced.class_names == ["z"]
    np.testing.assert_array_equal(mapped, pixels)  # processes that have mapped the old file keep it
    assert [path.name for path in store.path.parent.iterdir()] == ["tiny"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(UserError, match="exists and is not a class store"):
        write_store(tmp_path / "thesis", pixels, class_names=["z"], class_counts=[9], replace=True)


@pytest.mark.parametrize("step", ["_write_arrow", "_write_synced", "_sync_folder", "_rename_over"])
@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_write_leaves_the_old_store(
    step: str, replace: bool, tmp_path: Path, pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "stores" / "new"
    if replace:
        write_store(target, pixels, class_names=["old"], class_counts=[9])
    before = sorted(target.parent.iterdir()) if replace else []

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_store(target, pixels, class_names=["new"], class_counts=[9], replace=replace)
    assert sorted(target.parent.iterdir()) == before
    if replace:
        assert ClassStore.open(target).class_names == ["old"]


def test_the_old_store_is_restored_when_the_rename_fails(
    store: ClassStore, pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_for_temporary(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_temporary)
    with pytest.raises(UserError, match="tiny: the store cannot be written: no space left"):
        write_store(store.path, pixels, class_names=["new"], class_counts=[9], replace=True)
    assert ClassStore.open(store.path).class_names == ["a", "b", "c"]
    assert [path.name for path in store.path.parent.iterdir()] == ["tiny"]


def _edit(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")

    return edit


def _overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def overwrite(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return overwrite


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is not a class store.*a folder with manifest.json"),
        (_overwrite("manifest.json", lambda content: content[:50]), r"manifest.json: the manifest is not JSON"),
        (_overwrite("manifest.json", lambda content: b"\xff\xfe" + content), "is not a class store"),
        (_overwrite("manifest.json", lambda content: b"[]"), "manifest version None"),
        (_edit(version=7), "manifest.json: manifest version 7; allowed: version 1"),
        (_edit(kind="sound"), "manifest.json: kind"),
        (_edit(surprise=1), "manifest.json: surprise: Extra inputs"),
        (_edit(name="../up"), "manifest.json: name"),
        (_edit(shape=[28]), "is not that of image examples"),
        (_edit(class_names=["a", "a", "c"]), "class_names must be unique"),
        (_edit(class_counts=[2, 3, 3]), "class_counts must be positive and add up"),
        (_edit(splits={"s": {"train": [0], "test": [0]}}), "split set 's' holds a class twice"),
        (_edit(splits={"s": {"train": [3]}}), "split set 's' names a class that does not exist"),
        (_edit(shape=[1, 3, 3]), "examples.arrow: does not match the manifest"),
        (lambda folder: (folder / "examples.arrow").unlink(), "examples.arrow: is missing or damaged"),
        (_overwrite("examples.arrow", lambda content: content[:-20]), "examples.arrow: has .* bytes, .* expected"),
        (_overwrite("examples.arrow", lambda content: bytes(len(content))), "examples.arrow: is missing or damaged"),
    ],
)
def test_error_messages_name_the_damage(store: ClassStore, damage: Callable[[Path], None], message: str) -> None:
    damage(store.path)
    with pytest.raises(UserError, match=message) as caught:
        ClassStore.open(store.path)
    assert "\n" not in str(caught.value)


def test_verify_detects_a_changed_pixel(store: ClassStore) -> None:
    path = store.path / "examples.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(9)))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"examples.arrow: the digest differs"):
        ClassStore.open(store.path).verify()


def test_images_of_another_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images must be uint8"):
        write_store(tmp_path / "x", np.zeros((2, 1, 2, 2), np.float32), class_names=["a"], class_counts=[2])
    assert list(tmp_path.iterdir()) == []
