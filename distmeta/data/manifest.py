"""Schema of a class store's `manifest.json`.

It contains no local path and no time stamp: importing the same sources with the same options and library versions
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distmeta.core.errors import UserError
from distmeta.core.files import read_file

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
EXAMPLES_NAME = "examples.arrow"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_MANIFEST_BYTES = 256 << 20
PARTS = ("train", "test")

SplitSets = dict[str, dict[str, list[int]]]
Kind = Literal["image", "text", "vector", "table"]


@dataclass(frozen=True)
class Layout:
    """How the numbers of a kind of example lie in the file.

    Attributes:
        dimensions: Length of the manifest's `shape`.
        dtype: Type of the numbers.
    """

    dimensions: int
    dtype: np.dtype[Any]


LAYOUTS: dict[Kind, Layout] = {
    "image": Layout(3, np.dtype(np.uint8)),
    "vector": Layout(1, np.dtype(np.float32)),
    "table": Layout(2, np.dtype(np.float64)),
}
"""Kinds whose examples are numbers; texts are strings."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Record):
    """A raw file, or a folder of files, that the examples were read from."""

    name: str
    sha256: str

    @classmethod
    def of(cls, name: str, sha256: str) -> Source:
        """A source whose name may hold bytes that are not UTF-8, which are escaped."""
        return cls(name=name.encode(errors="backslashreplace").decode(), sha256=sha256)


class Provenance(_Record):
    """Importer, options, sources and library versions that produced the examples."""

    importer: str = "python"
    options: dict[str, str | int | float | bool | list[float] | list[str] | None] = {}
    sources: list[Source] = []
    versions: dict[str, str] = {}


class ExamplesFile(_Record):
    """Size and digest of `examples.arrow`."""

    sha256: str
    num_bytes: int


class Manifest(_Record):
    """Description of a store without the examples themselves.

    Attributes:
        kind: `image`, `vector`, `text`, or `table`: rows of numbers in groups, each of which is a regression task.
        shape: [channels, height, width] of an image, [numbers] of a vector, [inputs, targets] of a row of a table;
            empty for text.
        class_names: Names of the classes; of the groups of a table.
        class_counts: Examples of each class, in the order of `class_names` and of the rows.
        splits: {split set: {split: class indices}}.
        parts: {`train` and `test`: examples of each class}, in the order of the rows, where the data comes divided;
            empty where it does not.
    """

    format: Literal["distmeta-class-store"] = "distmeta-class-store"
    version: int = FORMAT_VERSION
    name: str = Field(pattern=NAME_PATTERN, max_length=255)
    kind: Kind
    shape: list[int]
    num_examples: int
    class_names: list[str] = Field(min_length=1)
    class_counts: list[int]
    splits: SplitSets
    parts: dict[str, list[int]] = {}
    provenance: Provenance
    examples: ExamplesFile

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        dimensions = LAYOUTS[self.kind].dimensions if self.kind in LAYOUTS else 0
        is_shape = len(self.shape) == dimensions and min(self.shape, default=1) >= 1
        if not is_shape or self.width >= 1 << 31:
            raise ValueError(f"shape {self.shape} is not that of {self.kind} examples")
        if len(self.class_counts) != len(self.class_names) or len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class_names must be unique and as many as class_counts")
        if min(self.class_counts) < 1 or sum(self.class_counts) != self.num_examples:
            raise ValueError("class_counts must be positive and add up to num_examples")
        if self.parts and list(self.parts) != list(PARTS):
            raise ValueError(f"parts must be {' and '.join(PARTS)}")
        if self.parts and any(
            min(counts) < 0 or sum(counts) != total
            for *counts, total in zip(*self.parts.values(), self.class_counts, strict=True)
        ):
            raise ValueError("parts must add up to class_counts")
        for set_name, split_set in self.splits.items():
            indices = [index for split in split_set.values() for index in split]
            if len(set(indices)) != len(indices):
                raise ValueError(f"split set '{set_name}' holds a class twice")
            if indices and (min(indices) < 0 or max(indices) >= len(self.class_names)):
                raise ValueError(f"split set '{set_name}' names a class that does not exist")
        return self

    @property
    def width(self) -> int:
        """Numbers of one example; 1 for a text."""
        return sum(self.shape) if self.kind == "table" else math.prod(self.shape)

    def to_json(self) -> str:
        """The file's content; without `parts` where there are none, as before there were any."""
        return self.model_dump_json(indent=1, exclude=None if self.parts else {"parts"})

    def class_offsets(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """First row of each class, and the number of rows: [C + 1] int64."""
        return np.concatenate([[0], np.cumsum(self.class_counts)]).astype(np.int64)


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises:
        UserError: No such file, no JSON, another format version, or inconsistent fields.
    """
    path = folder / MANIFEST_NAME
    try:
        text = read_file(path, MAX_MANIFEST_BYTES).decode()
    except (UserError, UnicodeDecodeError) as error:
        what = f"is not a class store: {error.what if isinstance(error, UserError) else error}"
        raise UserError(what, where=str(folder), allowed=f"a folder with {MANIFEST_NAME}") from error
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the manifest is not JSON: {error}; import the data again", where=str(path)) from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"manifest version {version!r}", where=str(path), allowed=f"version {FORMAT_VERSION}; import the data again"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{field}: {what}; import the data again", where=str(path)) from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
