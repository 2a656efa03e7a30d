"""Interface of importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distmeta.core.errors import UserError
from distmeta.data.manifest import Source, SplitSets
from distmeta.data.splits import DEFAULT_FRACTIONS
from distmeta.data.store import Examples

MAX_IMAGE_BYTES = 256 << 20
"""Largest encoded image that is read."""
MAX_CLASS_NAME = 1000
"""Characters of the longest class name."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of all importers; each importer declares which of them it supports.

    Attributes:
        size: Height and width to resize to, in pixels; None keeps the source's.
        grey: Convert images to one channel; otherwise to three. None: as many as the first image has.
        seed: Seed of a random class split.
        fractions: Shares of train, val and test classes.
        text_column: Column of a table that holds texts.
        image_column: Column of a table that holds images: encoded bytes, or paths relative to the table.
        label_column: Column of a table that holds class names.
        inputs: Columns of inputs. Of class-labelled data: one of images, texts or vectors, or several of numbers.
        group: Column of a table that says which regression task a row belongs to.
        target: Columns of a table that are predicted.
        split_column: Column that holds the split of each row: train, val or test.
        splits: {train/val/test: names of classes or groups}; None splits them at random.
    """

    size: int | None = None
    grey: bool | None = False
    seed: int = 0
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    text_column: str | None = None
    image_column: str | None = None
    label_column: str = "label"
    inputs: tuple[str, ...] = ()
    group: str | None = None
    target: tuple[str, ...] = ()
    split_column: str | None = None
    splits: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class ClassData:
    """Result of an importer: the arguments of `write_store`.

    Attributes:
        examples: Images [M, C, H, W] uint8, vectors [M, D] float32, rows of a table [M, D + O] float64 or M texts;
            sorted by class.
        class_names: Names of the classes, in the order of the rows.
        class_counts: Examples of each class.
        splits: {split set: {split: class indices}}.
        sources: Raw files and their digests.
        num_targets: O of a table of groups; 0 for classes.
        parts: {`train` and `test`: examples of each class}, those for training first, where the data comes divided.
    """

    examples: Examples
    class_names: list[str]
    class_counts: list[int]
    splits: SplitSets
    sources: list[Source]
    num_targets: int = 0
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Importer:
    """One kind of raw data.

    Attributes:
        read: Reads the source into examples sorted by class; raises UserError on bad input.
        description: One line for help texts and error messages.
        options: Names of the fields of ImportOptions that `read` supports.
        raw_folder: For a benchmark data set, the folder of its raw files in DISTMETA_DATA; None for user data.
    """

    read: Callable[[Path, ImportOptions], ClassData]
    description: str
    options: frozenset[str] = field(default_factory=frozenset)
    raw_folder: str | None = None


def require_class_names(names: Sequence[str], where: str) -> None:
    """Check that the names of classes can be written to a manifest and shown.

    Raises:
        UserError: A name is too long, or is no text in UTF-8.
    """
    for name in names:
        if len(name) > MAX_CLASS_NAME:
            what = f"a class name of {len(name)} characters ('{name[:20]}...')"
            raise UserError(what, where=where, allowed=f"at most {MAX_CLASS_NAME}")
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UserError(f"the class name {name!a} is not UTF-8", where=where, allowed="names in UTF-8")
