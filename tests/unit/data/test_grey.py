"""Importers of small grey images."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from distmeta.core.errors import UserError
from distmeta.data.catalog import import_store
from distmeta.data.importers import ImportOptions

pytestmark = pytest.mark.usefixtures("home")


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4) for size in array.shape)
    return gzip.compress(bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Twenty images whose pixels are all ten times the label, in two parts."""
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        labels = np.arange(10)[::-1] if part == "train" else np.arange(10)
        images = np.broadcast_to(10 * labels[:, None, None], (10, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return folder


@pytest.mark.parametrize(("kind", "size"), [("fashion_mnist", 28), ("fashion_mnist_8x8", 8)])
def test_images_are_sorted_by_class(fashion: Path, kind: str, size: int) -> None:
    store = import_store(kind, fashion)
    assert (store.shape, store.num_examples, store.class_names[1]) == ((1, size, size), 20, "Trouser")
    assert store.images[:, 0, 0, 0].tolist() == np.repeat(10 * np.arange(10), 2).tolist()
    assert store.manifest.parts == {"train": [1] * 10, "test": [1] * 10}
    assert import_store(kind, fashion, name="small", options=ImportOptions(size=5)).shape == (1, 5, 5)


def test_usps_has_floats(tmp_path: Path) -> None:
    labels = np.arange(10)
    images = np.broadcast_to((labels[:, None, None] / 9).astype(np.float32), (10, 16, 16))
    np.savez(tmp_path / "usps.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    store = import_store("usps_8x8", tmp_path)
    assert (store.shape, store.num_examples) == ((1, 8, 8), 19)
    assert store.images[-1].max() == 255
    assert store.manifest.parts == {"train": [1] * 10, "test": [1] * 9 + [0]}


def test_bad_files_are_named(fashion: Path, tmp_path: Path) -> None:
    def refused(kind: str, source: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            import_store(kind, source, name="bad")
        assert "\n" not in str(caught.value)

    labels = fashion / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(idx(np.full(10, 11)))
    refused("fashion_mnist", fashion, "label 11; allowed: 0 to 9")
    labels.write_bytes(idx(np.zeros(9)))
    refused("fashion_mnist", fashion, r"images \[20, 28, 28\] with labels \[19\]")
    labels.write_bytes(idx(np.zeros(10))[:-6])
    refused("fashion_mnist", fashion, "t10k-labels-idx1-ubyte.gz: cannot be read")
    labels.write_bytes(gzip.compress(b"\0\0\x0d\x01"))
    refused("fashion_mnist", fashion, "not an IDX file|cannot be read")
    labels.unlink()
    refused("fashion_mnist", fashion, "t10k-labels-idx1-ubyte.gz: no such file")
    (tmp_path / "usps.npz").write_bytes(b"PK")
    refused("usps", tmp_path, "usps.npz: cannot be read")
