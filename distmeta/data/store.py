"""A memory-mapped, class-indexed store of labelled examples.

A store is a folder with `examples.arrow` (an Arrow IPC file of one record batch, rows sorted by class) and
`manifest.json`. Images are one fixed-size list column of uint8, so that the file maps to a numpy array [M, C, H, W]
without a copy: all processes of a machine share the same pages, and a batch of episodes is read with one fancy index.
Vectors are float32, and rows of a table, whose classes are groups, float64.

Shapes: M examples in the store, C classes (in `class_offsets`) or channels (in images), H height, W width, D numbers of
a vector or inputs of a row, O targets of a row.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import reason
from distmeta.data.manifest import (
    EXAMPLES_NAME,
    LAYOUTS,
    MANIFEST_NAME,
    ExamplesFile,
    Kind,
    Manifest,
    Provenance,
    SplitSets,
    file_sha256,
    read_manifest,
)

_DAMAGED = "is missing or damaged; import the data again"
_MISMATCH = "does not match the manifest; import the data again"

Examples = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.float64] | Sequence[str]


class ClassStore:
    """An open, memory-mapped store. Create one with `ClassStore.open`.

    Attributes:
        path: The folder.
        manifest: The validated manifest.
        class_offsets: [C + 1] int64; the rows of class c are `class_offsets[c]` to `class_offsets[c + 1] - 1`.
    """

    def __init__(self, path: Path, manifest: Manifest, column: Any) -> None:
        self.path = path
        self.manifest = manifest
        self.class_offsets: npt.NDArray[np.int64] = manifest.class_offsets()
        self._column = column

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ClassStore:
        """Memory-map the store in folder `path`.

        Raises:
            UserError: The manifest is missing, damaged or of another version, or does not match the examples.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        return cls(folder, manifest, _map_column(folder / EXAMPLES_NAME, manifest))

    def __reduce__(self) -> tuple[Callable[[str], ClassStore], tuple[str]]:
        """Pickle as a path: the receiving process maps the file itself."""
        return ClassStore.open, (str(self.path.resolve()),)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def kind(self) -> Kind:
        """`image`, `vector`, `text` or `table`."""
        return self.manifest.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, (D,) of a vector, (D, O) of a row of a table; () for text."""
        return tuple(self.manifest.shape)

    @property
    def class_names(self) -> list[str]:
        return self.manifest.class_names

    @property
    def num_examples(self) -> int:
        """M, the number of examples of all classes together."""
        return self.manifest.num_examples

    @property
    def splits(self) -> SplitSets:
        """{split set: {split: class indices}}."""
        return self.manifest.splits

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images: [M, C, H, W] uint8, a read-only view of the mapped file."""
        self._require_kind("image")
        return self._numbers().reshape(self.num_examples, *self.shape)

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """All vectors: [M, D] float32, a read-only view of the mapped file."""
        self._require_kind("vector")
        return self._numbers()

    @property
    def rows(self) -> npt.NDArray[np.float64]:
        """All rows of a table, inputs before targets: [M, D + O] float64, a read-only view of the mapped file."""
        self._require_kind("table")
        return self._numbers()

    @property
    def texts(self) -> Any:
        """All texts: a memory-mapped `pyarrow.LargeStringArray` of M strings."""
        self._require_kind("text")
        return self._column

    def labels_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The class of each row [...]: the position of its name among `class_names`."""
        labels: npt.NDArray[np.int64] = np.searchsorted(self.class_offsets, rows, side="right") - 1
        return labels

    def split(self, set_name: str, split: str) -> npt.NDArray[np.int64]:
        """Class indices of one split of a split set.

        Raises:
            UserError: No such split set, or no such split in it.
        """
        if set_name not in self.splits:
            raise UserError(
                f"no split set '{set_name}'",
                where=f"data '{self.name}'",
                allowed=nearest(set_name, self.splits) or "none",
            )
        split_set = self.splits[set_name]
        if split not in split_set:
            raise UserError(
                f"no split '{split}' in split set '{set_name}'",
                where=f"data '{self.name}'",
                allowed=nearest(split, split_set),
            )
        return np.asarray(split_set[split], dtype=np.int64)

    def verify(self) -> None:
        """Compare the digest of `examples.arrow` with the manifest.

        Raises:
            UserError: The digests differ.
        """
        path = self.path / EXAMPLES_NAME
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise UserError(f"cannot be read: {reason(error)}", where=str(path)) from error
        if digest != self.manifest.examples.sha256:
            raise UserError(
                "the digest differs from the manifest's: the file was changed; import the data again", where=str(path)
            )

    def _numbers(self) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = self._column.flatten().to_numpy(zero_copy_only=True)
        return values.reshape(self.num_examples, self.manifest.width)

    def _require_kind(self, kind: Kind) -> None:
        if self.kind != kind:
            raise UserError(f"holds {self.kind} examples, not {kind} examples", where=f"data '{self.name}'")


_NOUNS = {"class": ("classes", "example"), "group": ("groups", "row")}


def require_examples(
    class_names: Sequence[str],
    class_counts: Sequence[int],
    minimum: int,
    where: str,
    noun: Literal["class", "group"] = "class",
) -> None:
    """Check that every class, or every group of a table, has at least `minimum` examples.

    Raises:
        UserError: A class has too few examples; the message names the first one.
    """
    plural, example = _NOUNS[noun]
    for class_name, count in zip(class_names, class_counts, strict=True):
        if count < minimum:
            raise UserError(
                f"{noun} '{class_name}' has {count} {example}{'s' * (count != 1)}, {minimum} are needed",
                where=where,
                allowed=f"{plural} with at least {minimum} {example}s",
            )


def write_store(
    path: str | os.PathLike[str],
    examples: Examples,
    *,
    class_names: Sequence[str],
    class_counts: Sequence[int],
    splits: SplitSets | None = None,
    provenance: Provenance | None = None,
    num_targets: int = 0,
    parts: Mapping[str, Sequence[int]] | None = None,
    replace: bool = False,
) -> ClassStore:
    """Write a store atomically: a temporary sibling folder is filled, synced, opened as a check, and renamed.

    Args:
        path: The folder to create; its last part is the name of the store.
        examples: Images [M, C, H, W] uint8, vectors [M, D] float32, rows of a table [M, D + O] float64, or M texts;
            sorted by class.
        class_names: Names of the classes, in the order of the rows.
        class_counts: Examples of each class, in the same order.
        splits: {split set: {split: class indices}}.
        provenance: Origin of the examples.
        num_targets: O of a table, whose last columns are targets; 0 for all other kinds.
        parts: {`train` and `test`: examples of each class}, those for training first, where the data comes divided.
        replace: Replace an existing store (but never a folder that is not a store).

    Returns:
        The new store, open.

    Raises:
        UserError: The store exists already and `replace` is false, `path` is something else than a store, or it cannot
            be written. An existing store is then unchanged.
        ValueError: The arguments are inconsistent.
    """
    target = Path(path).absolute()
    _require_free(target, replace)
    kind, shape = _kind_and_shape(examples, num_targets)
    manifest = {
        "name": target.name,
        "kind": kind,
        "shape": shape,
        "num_examples": len(examples),
        "class_names": list(class_names),
        "class_counts": [int(count) for count in class_counts],
        "splits": splits or {},
        "parts": {part: [int(count) for count in counts] for part, counts in (parts or {}).items()},
        "provenance": provenance or Provenance(),
    }
    try:
        return _write_beside(target, _batch(examples, kind), manifest)
    except OSError as error:
        raise UserError(f"the store cannot be written: {reason(error)}", where=str(target)) from error


def _write_beside(target: Path, batch: Any, fields: dict[str, Any]) -> ClassStore:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp creates a folder that only its owner can read
        path = temporary / EXAMPLES_NAME
        _write_arrow(path, batch)
        examples = ExamplesFile(sha256=file_sha256(path), num_bytes=path.stat().st_size)
        manifest = Manifest(**fields, examples=examples)
        _write_synced(temporary / MANIFEST_NAME, manifest.to_json().encode())
        _sync_folder(temporary)
        ClassStore.open(temporary)  # what cannot be read must not replace what can
        _rename_over(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ClassStore.open(target)


def _require_free(target: Path, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if not os.path.isfile(target / MANIFEST_NAME):
        raise UserError("exists and is not a class store", where=str(target), allowed="another name")
    if not replace:
        raise UserError("a store of this name exists", where=str(target), allowed="--replace, or another --name")


def _kind_and_shape(examples: Examples, num_targets: int) -> tuple[Kind, list[int]]:
    if not isinstance(examples, np.ndarray):
        return "text", []
    shape = [int(side) for side in examples.shape[1:]]
    if num_targets:
        return "table", [shape[0] - num_targets, num_targets]
    return ("vector" if examples.dtype == np.float32 and examples.ndim == 2 else "image"), shape


def _column(examples: Examples, kind: Kind) -> Any:
    if not isinstance(examples, np.ndarray):
        return pa.array(examples, type=pa.large_string())
    if kind == "image" and (examples.dtype != np.uint8 or examples.ndim != 4):
        raise ValueError(f"images must be uint8 [M, C, H, W], not {examples.dtype} {list(examples.shape)}")
    if kind == "table" and (examples.dtype != np.float64 or examples.ndim != 2):
        raise ValueError(f"rows must be float64 [M, D + O], not {examples.dtype} {list(examples.shape)}")
    flat = np.ascontiguousarray(examples).reshape(-1)
    values = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), flat.size, [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(values, type=_column_type(kind, int(np.prod(examples.shape[1:]))))


def _column_type(kind: Kind, width: int) -> Any:
    if kind not in LAYOUTS:
        return pa.large_string()
    return pa.list_(pa.field("item", pa.from_numpy_dtype(LAYOUTS[kind].dtype), nullable=False), width)


def _batch(examples: Examples, kind: Kind) -> Any:
    column = _column(examples, kind)
    return pa.record_batch([column], schema=pa.schema([pa.field(kind, column.type, nullable=False)]))


def _write_arrow(path: Path, batch: Any) -> None:
    with pa.OSFile(os.fsencode(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _map_column(path: Path, manifest: Manifest) -> Any:
    """Memory-map the single column of the examples file and check that it matches the manifest."""
    _check_size(path, manifest)
    try:
        reader = pa.ipc.open_file(pa.memory_map(os.fsencode(path), "r"))
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is None or batch.num_columns != 1 or batch.num_rows != manifest.num_examples:
            raise UserError(_MISMATCH, where=str(path))
        # Of texts, offsets and encoding are checked too; numbers have neither.
        batch.validate(full=manifest.kind == "text")
        column = batch.column(0)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{_DAMAGED}: {error}", where=str(path)) from error
    expected = _column_type(manifest.kind, manifest.width)
    if column.type != expected or column.null_count or (manifest.kind in LAYOUTS and column.values.null_count):
        raise UserError(_MISMATCH, where=str(path))
    return column


def _check_size(path: Path, manifest: Manifest) -> None:
    try:
        num_bytes, expected = path.stat().st_size, manifest.examples.num_bytes
    except OSError as error:
        raise UserError(f"{_DAMAGED}: {error}", where=str(path)) from error
    if not os.path.isfile(path) or num_bytes != expected:
        raise UserError(f"has {num_bytes} bytes, {expected} expected: {_DAMAGED}", where=str(path))
    # A smaller file would be compressed, and be expanded when it is read.
    layout = LAYOUTS.get(manifest.kind)
    if layout and manifest.num_examples * manifest.width * layout.dtype.itemsize > num_bytes:
        raise UserError(_MISMATCH, where=str(path))


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_over(temporary: Path, target: Path) -> None:
    """Replace `target` by `temporary`; restore the old store if that fails."""
    old = temporary.with_suffix(".old")
    if target.exists():
        target.rename(old)  # a folder cannot be renamed over one that is not empty
    try:
        temporary.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _sync_folder(target.parent)
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
