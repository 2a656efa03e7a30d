"""Small raw data sets and stores."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from distmeta.data.store import ClassStore, write_store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DISTMETA_HOME, and no raw data."""
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DISTMETA_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    """Nine images of 2x3 pixels, every value different."""
    return np.arange(9 * 6, dtype=np.uint8).reshape(9, 1, 2, 3)


@pytest.fixture
def store(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> ClassStore:
    """Nine images of three classes (2, 3 and 4 examples)."""
    return write_store(
        tmp_path / "tiny",
        pixels,
        class_names=["a", "b", "c"],
        class_counts=[2, 3, 4],
        splits={"fractions": {"train": [0], "val": [2], "test": [1]}},
    )


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Factory of the bytes of a PNG of one grey value."""

    def make(value: int = 0, mode: str = "L", size: tuple[int, int] = (8, 8)) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size, value).save(buffer, format="PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def omniglot_folder(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """Zips in the form of Omniglot: three characters of two drawings, 8x8 pixels of 1 bit."""
    folder = tmp_path / "raw" / "omniglot"
    folder.mkdir(parents=True)
    for part, characters in (
        ("background", ["Latin/character01", "Latin/character02"]),
        ("evaluation", ["Tengwar/character01"]),
    ):
        with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
            for character in characters:
                for drawer in (1, 2):
                    archive.writestr(f"images_{part}/{character}/0001_{drawer:02}.png", png(drawer - 1, "1"))
    return folder


@pytest.fixture
def image_folder(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """Two classes of three images in folders."""
    folder = tmp_path / "pets"
    for label, class_name in enumerate(("cat", "dog")):
        (folder / class_name).mkdir(parents=True)
        for index in range(3):
            (folder / class_name / f"{index}.png").write_bytes(png(100 * label + index))
    return folder
