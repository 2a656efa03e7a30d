"""Import a folder of images with one sub-folder per class: `SRC/<class>/.../<image>`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from distmeta.core.errors import UserError
from distmeta.core.files import read_file, reason
from distmeta.data.importers.base import MAX_IMAGE_BYTES, ClassData, Importer, ImportOptions, require_class_names
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import Source
from distmeta.data.splits import fractions, given

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})


def read_folder(source: Path, options: ImportOptions) -> ClassData:
    """Read all images in the class folders of `source`; classes and images are sorted by name.

    Args:
        source: The folder of the class folders. Hidden files and files that are not images are skipped.
        options: `size`, `grey`, `splits`, `seed` and `fractions`.

    Raises:
        UserError: A folder that cannot be read, no class folder, a class without an image, an image that cannot be
            decoded or has another size.
    """
    groups = _images_by_class(source)
    require_class_names(list(groups), str(source))
    for class_name, paths in groups.items():
        if not paths:
            raise UserError(
                f"class '{class_name}' holds no image",
                where=str(source / class_name),
                allowed=", ".join(sorted(SUFFIXES)),
            )
    paths = [path for group in groups.values() for path in group]
    digests = [b""] * len(paths)

    def load(index: int) -> bytes:
        content = read_file(paths[index], MAX_IMAGE_BYTES)
        digests[index] = hashlib.sha256(content).digest()
        return content

    images = decode_images([str(path) for path in paths], load, size=options.size, grey=options.grey)
    combined = hashlib.sha256()
    for path, digest in zip(paths, digests, strict=True):
        combined.update(os.fsencode(path.relative_to(source).as_posix()) + b"\0" + digest)
    return ClassData(
        examples=images,
        class_names=list(groups),
        class_counts=[len(group) for group in groups.values()],
        splits=(
            fractions(len(groups), options.fractions, options.seed)
            if options.splits is None
            else given(options.splits, list(groups), str(source))
        ),
        sources=[Source.of(f"{source.resolve().name}/ ({len(paths)} images)", combined.hexdigest())],
    )


def _images_by_class(source: Path) -> dict[str, list[Path]]:
    if not os.path.isdir(source):
        raise UserError("no such folder", where=str(source), allowed="a folder with one sub-folder per class")
    try:
        groups = {child.name: _images_in(child) for child in sorted(source.iterdir()) if _is_class_folder(child)}
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=str(error.filename or source)) from error
    except RecursionError as error:
        raise UserError("is nested too deeply", where=str(source), allowed="one sub-folder per class") from error
    if not groups:
        raise UserError("holds no sub-folder", where=str(source), allowed="one sub-folder per class")
    return groups


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _images_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return [path for path in files if not path.name.startswith(".")]


IMPORTER = Importer(
    read=read_folder,
    description="images: a folder with one sub-folder of images per class",
    options=frozenset({"size", "grey", "splits", "seed", "fractions"}),
)
