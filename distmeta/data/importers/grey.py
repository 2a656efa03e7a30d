"""Import small grey images of ten classes: Fashion-MNIST (Xiao et al. 2017) and USPS digits (Hull 1994).

Fashion-MNIST has four gzipped IDX files, of the training and the test images and labels; USPS an npz with arrays
`x_train`, `y_train`, `x_test` and `y_test`, of pixels from 0 to 1. Both parts go into one store. The kinds `*_8x8` are
the same at 8 x 8 pixels: problems that a CPU optimises in milliseconds.

Shapes: M images, H height, W width.
"""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distmeta.core.errors import UserError
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.decode import decode_images
from distmeta.data.importers.pixels import picture
from distmeta.data.manifest import Source, file_sha256
from distmeta.data.splits import fractions

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple(map(str, range(10)))
FASHION_FILES = tuple(
    f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
USPS_FILE = "usps.npz"
_MAX_BYTES = 256 << 20
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
Pixels = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]
Read = Callable[[Path], tuple[Pixels, Labels, int, list[Path]]]
"""Folder -> images [M, H, W], labels [M], how many of them, the first ones, are for training; the files."""


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes in a gzipped IDX file.

    Raises:
        UserError: The file is missing, damaged, too large, or of another type.
    """
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed=f"a folder with {', '.join(FASHION_FILES)}")
    try:
        with gzip.open(path) as file:
            content = file.read(_MAX_BYTES + 1)
        zero, kind, num_axes = int.from_bytes(content[:2]), content[2], content[3]
        shape = np.frombuffer(content, ">u4", num_axes, 4).astype(np.int64)
        if zero or kind != 8 or not num_axes or len(content) > _MAX_BYTES:
            raise ValueError("not an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
    except (*_DAMAGED, IndexError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), allowed="a gzipped IDX file of bytes") from error


def read_fashion(folder: Path) -> tuple[Pixels, Labels, int, list[Path]]:
    """See `Read`."""
    files = [folder / name for name in FASHION_FILES]
    arrays = [read_idx(path) for path in files]
    labels = np.concatenate(arrays[1::2]).astype(np.int64)
    return np.concatenate(arrays[::2]), labels, len(arrays[1]), files


def read_usps(folder: Path) -> tuple[Pixels, Labels, int, list[Path]]:
    """See `Read`."""
    path = folder / USPS_FILE
    allowed = "an npz file with x_train, y_train, x_test and y_test"
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed=allowed)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pixels, labels = (np.concatenate([arrays[f"{x}_train"], arrays[f"{x}_test"]]) for x in ("x", "y"))
            num_train = len(arrays["y_train"])
    except _DAMAGED as error:
        raise UserError(f"cannot be read: {error}", where=str(path), allowed=allowed) from error
    return pixels, labels.astype(np.int64), num_train, [path]


def read_grey(source: Path, options: ImportOptions, read: Read, class_names: tuple[str, ...], size: int) -> ClassData:
    """Read images of ten classes.

    Args:
        source: Folder of the files.
        options: `size`; None takes the one of the kind.
        read: Reads the folder.
        class_names: Names of the labels 0, 1, ...
        size: Height and width of the kind's images.

    Raises:
        UserError: A file is missing or damaged, the files do not match, or a class has no image.
    """
    pixels, labels, num_train, files = read(source)
    where, num_classes = str(source), len(class_names)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1] or not len(labels):
        raise UserError(f"images {list(pixels.shape)} with labels {list(labels.shape)}", where=where)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"label {labels.max()}", where=where, allowed=f"0 to {num_classes - 1}")
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise UserError(f"class '{class_names[int(counts.argmin())]}' has no image", where=where)
    of_train = np.bincount(labels[:num_train], minlength=num_classes)
    order = np.argsort(labels, kind="stable")  # of each class, those for training first
    names = [f"{where}, image {row}" for row in order]
    images = decode_images(
        names,
        lambda index: picture(pixels[order[index]], names[index]),
        size=options.size or size,
        grey=True,
    )
    return ClassData(
        examples=images,
        class_names=list(class_names),
        class_counts=counts.tolist(),
        splits=fractions(num_classes, seed=options.seed),
        sources=[Source(name=path.name, sha256=file_sha256(path)) for path in files],
        parts={"train": of_train.tolist(), "test": (counts - of_train).tolist()},
    )


def _importer(read: Read, class_names: tuple[str, ...], size: int, title: str, folder: str) -> Importer:
    files = USPS_FILE if read is read_usps else "four gzipped IDX files"
    return Importer(
        read=partial(_read, read, class_names, size),
        description=f"{title}, {size} x {size} pixels: a folder with {files}",
        options=frozenset({"size", "seed"}),
        raw_folder=folder,
    )


def _read(read: Read, names: tuple[str, ...], size: int, source: Path, options: ImportOptions) -> ClassData:
    return read_grey(source, options, read, names, size)


FASHION_MNIST = _importer(read_fashion, FASHION_CLASSES, 28, "Fashion-MNIST", "fashion_mnist")
USPS = _importer(read_usps, DIGITS, 16, "USPS digits", "usps")
FASHION_MNIST_8X8 = _importer(read_fashion, FASHION_CLASSES, 8, "Fashion-MNIST", "fashion_mnist")
USPS_8X8 = _importer(read_usps, DIGITS, 8, "USPS digits", "usps")
