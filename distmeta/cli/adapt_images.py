"""Images that `distmeta adapt` learns from and labels: folders of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distmeta.core.errors import UserError
from distmeta.core.files import read_file, reason
from distmeta.data.importers.base import MAX_IMAGE_BYTES
from distmeta.data.importers.decode import decode_images
from distmeta.data.importers.folder import SUFFIXES


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Images by class, sorted by name."""
    children = [path for path in _children(folder, "one sub-folder of images for each class") if os.path.isdir(path)]
    if not children:
        raise UserError("holds no sub-folder", where=str(folder), allowed="one sub-folder of images for each class")
    classes = {child.name: images_in(child) for child in children}
    for name, paths in classes.items():
        if not paths:
            raise UserError(f"class '{name}' holds no image", where=str(folder / name), allowed=image_kinds())
    return classes


def images_in(folder: Path) -> list[Path]:
    files = _children(folder, "a folder of images")
    return [path for path in files if path.suffix.lower() in SUFFIXES and os.path.isfile(path)]


def _children(folder: Path, allowed: str) -> list[Path]:
    """What a folder holds, sorted; without hidden files."""
    if not os.path.isdir(folder):
        raise UserError("no such folder", where=str(folder), allowed=allowed)
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=str(folder), allowed=allowed) from error


def image_kinds() -> str:
    return ", ".join(sorted(SUFFIXES))


def read_images(paths: list[Path], shape: tuple[int, ...], invert: bool) -> npt.NDArray[np.float32]:
    """Images in the learner's own form: [M, C, H, W] in [0, 1]."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise UserError(f"the learner takes inputs of shape {shape}", allowed="a learner of square images")
    names = [str(path) for path in paths]
    pixels = decode_images(
        names, lambda index: read_file(paths[index], MAX_IMAGE_BYTES), size=shape[1], grey=shape[0] == 1
    )
    images = pixels.astype(np.float32) / np.float32(255)
    return 1 - images if invert else images
