"""Omniglot: 1,623 handwritten characters, each drawn by 20 people (Lake, Salakhutdinov & Tenenbaum 2015, Science 350).

Reads `images_background.zip` (30 alphabets) and `images_evaluation.zip` (20 others). Drawings are resized from 105x105
(Lanczos) and inverted, so that ink is 255 and paper is 0. Class names are `Alphabet/characterNN`.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from distmeta.core.errors import UserError
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.decode import decode_images
from distmeta.data.manifest import Source, SplitSets, file_sha256
from distmeta.data.splits import OMNIGLOT_CLASSES, by_alphabets, fractions, omniglot

Split = Callable[[int, int, int], SplitSets]
"""(classes of the first zip, all classes, seed) -> the split set."""

ZIP_NAMES = ("images_background.zip", "images_evaluation.zip")
DEFAULT_SIZE = 28
MAX_MEMBER_BYTES = 16 << 20
MAX_ZIP_BYTES = 1 << 30
"""Limits of what a zip expands to; the drawings of Omniglot have 0.3 kB each, 10 MB together."""
_MEMBER = re.compile(r"images_(?:background|evaluation)/(?P<class_name>[^/]+/character\d+)/[^/]+\.png")
_DAMAGED = (  # what zipfile and its decoders raise on damaged files
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def _at_random(num_background: int, num_classes: int, seed: int) -> SplitSets:
    """Split set `omniglot` if all 1,623 characters are present, otherwise `fractions`."""
    return omniglot(seed) if num_classes == OMNIGLOT_CLASSES else fractions(num_classes, seed=seed)


def read_omniglot(source: Path, options: ImportOptions, split: Split = _at_random) -> ClassData:
    """Read both zips.

    Args:
        source: The folder of the zips, or its parent if the folder is called `omniglot`.
        options: `size` (28 pixels when None) and `seed`.
        split: Makes the split set.

    Raises:
        UserError: A zip is missing or damaged, or a drawing cannot be decoded.
    """
    folder = source / "omniglot" if (source / "omniglot" / ZIP_NAMES[0]).is_file() else source
    drawings: dict[str, list[tuple[str, bytes]]] = {}
    num_classes = []
    for zip_name in ZIP_NAMES:
        for member, content in read_zip(folder / zip_name).items():
            match = _MEMBER.fullmatch(member)
            if match is None:
                raise UserError(f"'{member}' is not Alphabet/characterNN/drawing.png", where=str(folder / zip_name))
            drawings.setdefault(match["class_name"], []).append((member, content))
        num_classes.append(len(drawings))
    items = [item for group in drawings.values() for item in group]
    images = decode_images(
        [name for name, _ in items], lambda index: items[index][1], size=options.size or DEFAULT_SIZE, grey=True
    )
    return ClassData(
        examples=255 - images,
        class_names=list(drawings),
        class_counts=[len(group) for group in drawings.values()],
        splits=split(num_classes[0], num_classes[-1], options.seed),
        sources=[Source(name=zip_name, sha256=file_sha256(folder / zip_name)) for zip_name in ZIP_NAMES],
    )


def read_zip(path: Path) -> dict[str, bytes]:
    """Read all PNG members of a zip into memory, sorted by name.

    Raises:
        UserError: The zip is missing, truncated or damaged, contains no image or one that is too large, or a member's
            path leaves the zip.
    """
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed=f"a folder with {' and '.join(ZIP_NAMES)}")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "\\" in name or ":" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
                    raise UserError(f"member '{name}' points out of the zip", where=str(path))
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            _require_small(archive, names, path)
            contents = {name: archive.read(name) for name in names}
    except _DAMAGED as error:
        raise UserError(f"the zip is truncated or damaged: {error}", where=str(path)) from error
    if not contents:
        raise UserError("holds no PNG image", where=str(path))
    return contents


def _require_small(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> None:
    """Check what the members expand to, before anything is expanded."""
    total = 0
    for name in names:
        size = archive.getinfo(name).file_size
        total += size
        if size > MAX_MEMBER_BYTES:
            allowed = f"drawings of at most {MAX_MEMBER_BYTES}"
            raise UserError(f"member '{name}' expands to {size} bytes", where=str(path), allowed=allowed)
    if total > MAX_ZIP_BYTES:
        raise UserError(f"expands to {total} bytes", where=str(path), allowed=f"at most {MAX_ZIP_BYTES}")


def _importer(title: str, split: Split) -> Importer:
    return Importer(
        read=partial(read_omniglot, split=split),
        description=f"{title}: a folder with images_background.zip and images_evaluation.zip",
        options=frozenset({"size", "seed"}),
        raw_folder="omniglot",
    )


IMPORTER = _importer("Omniglot", _at_random)
ALPHABETS = _importer("Omniglot, tested on other alphabets", by_alphabets)
