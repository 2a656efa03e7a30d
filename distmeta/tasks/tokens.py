"""The token ids of a store's texts, encoded once for each store and tokenizer and then mapped by all processes.

The file is an Arrow IPC file of one column of lists, in the folder `tokens` of DISTMETA_HOME. Its name has a digest of
the examples, the tokenizer and the template, so that it never goes out of date; it may be deleted at any time.

Shapes: M texts, L tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distmeta.core.errors import UserError
from distmeta.core.files import reason
from distmeta.core.paths import data_home
from distmeta.data.catalog import locked
from distmeta.data.store import ClassStore
from distmeta.models.petl.tokens import Tokenizer

_LOG = logging.getLogger(__name__)
_VERSION = 1
_COLUMN = "tokens"
_BLOCK_TEXTS = 1 << 14

Ids = npt.NDArray[Any]


class EncodedTexts:
    """The mapped token ids of M texts. Create one with `encoded_texts`.

    Args:
        path: The file.
        num_texts: M.
        pad_id: Id of padding.
        vocab_size: All ids are below it.
        closing: Ids that end every text: special tokens, and the words of a template behind it.

    Attributes:
        sizes: [M] int64, the number of tokens of each text.
        pad_id: Id of padding.

    Raises:
        ValueError: The file is damaged, or does not hold M texts that are free of padding.
        OSError: There is no such file.
    """

    def __init__(self, path: Path, num_texts: int, pad_id: int, vocab_size: int, closing: tuple[int, ...]) -> None:
        reader = pa.ipc.open_file(pa.memory_map(os.fsencode(path), "r"))
        if reader.num_record_batches != 1 or reader.schema.names != [_COLUMN]:
            raise ValueError(f"it holds {reader.num_record_batches} batches of {reader.schema.names}")
        batch = reader.get_batch(0)
        batch.validate(full=True)
        column = batch.column(0)
        if column.type != _column_type() or column.null_count or len(column) != num_texts:
            raise ValueError(f"it holds {len(column)} of {num_texts} texts, as {column.type}")
        self._ids: Ids = column.values.to_numpy(zero_copy_only=True)
        self._starts: Ids = column.offsets.to_numpy(zero_copy_only=True)
        self.sizes: npt.NDArray[np.int64] = np.diff(self._starts)
        self.pad_id = pad_id
        if self.sizes.min(initial=1) < 1 or bool((self._ids == pad_id).any()):
            raise ValueError("it holds texts without tokens, or padding")
        if self._ids.min(initial=0) < 0 or self._ids.max(initial=0) >= vocab_size:
            raise ValueError(f"it holds ids that are not in 0 to {vocab_size - 1}")
        self._path, self._vocab_size, self._closing = path, vocab_size, closing

    def __reduce__(self) -> tuple[Callable[..., EncodedTexts], tuple[Path, int, int, int, tuple[int, ...]]]:
        """Pickle as a path: the receiving process maps the file itself."""
        return EncodedTexts, (self._path, len(self.sizes), self.pad_id, self._vocab_size, self._closing)

    def padded(self, rows: Ids, length: int, longest: int) -> npt.NDArray[np.int64]:
        """The ids of some texts, padded on the right.

        Args:
            rows: [...] texts.
            length: L of the result, at least the size of each text or `longest`.
            longest: Tokens to cut longer texts to; they keep the tokens that end every text.

        Returns:
            [..., L].
        """
        sizes = np.minimum(self.sizes[rows], longest)[..., None]
        places = np.arange(length)
        positions = self._starts[rows][..., None] + np.minimum(places, sizes - 1)
        ids: npt.NDArray[np.int64] = self._ids[positions].astype(np.int64)
        ids[places >= sizes] = self.pad_id
        cut = self.sizes[rows] > longest
        if self._closing and bool(cut.any()):
            # Assigned in two steps: one index of a mask and a range of places would copy.
            ends = ids[cut]
            ends[:, longest - len(self._closing) : longest] = self._closing
            ids[cut] = ends
        padded: Ids = ids
        return padded


def encoded_texts(store: ClassStore, tokenizer: Tokenizer, template: str = "{}") -> EncodedTexts:
    """Map the token ids of a store's texts, which are encoded at first use. Safe for concurrent processes.

    Args:
        store: The store.
        tokenizer: The tokenizer.
        template: What is put around every text, in place of `{}`.

    Raises:
        UserError: A text has no token, or the file cannot be written.
    """
    key = json.dumps([_VERSION, store.manifest.examples.sha256, tokenizer.digest, template])
    folder = data_home() / "tokens"
    path = folder / f"{store.name[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.arrow"
    closing = tokenizer.closing(template)
    if (found := _open(path, store, tokenizer, closing, report=False)) is not None:
        return found
    with locked(folder / f".{path.stem}.lock"):
        if (found := _open(path, store, tokenizer, closing, report=True)) is not None:
            return found
        _LOG.info("encoding the texts of '%s'", store.name)
        try:
            _write(path, _encode(store, tokenizer, template))
        except OSError as error:
            raise UserError(f"cannot be written: {reason(error)}", where=str(path)) from error
        return EncodedTexts(path, store.num_examples, tokenizer.pad_id, tokenizer.vocab_size, closing)


def _open(
    path: Path, store: ClassStore, tokenizer: Tokenizer, closing: tuple[int, ...], *, report: bool
) -> EncodedTexts | None:
    """The mapped file; None if it must be made, or made again."""
    try:
        return EncodedTexts(path, store.num_examples, tokenizer.pad_id, tokenizer.vocab_size, closing)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        if report:
            _LOG.warning("%s is damaged and is made again: %s", path, error)
        return None


def _column_type() -> Any:
    return pa.large_list(pa.field("item", pa.int32(), nullable=False))


def _encode(store: ClassStore, tokenizer: Tokenizer, template: str) -> Any:
    """A column of the ids of all texts within the template."""
    ids: list[npt.NDArray[np.int32]] = []
    sizes: list[int] = [0]
    for start in range(0, store.num_examples, _BLOCK_TEXTS):
        texts = store.texts.slice(start, _BLOCK_TEXTS).to_pylist()
        block = tokenizer.encode([template.replace("{}", text) for text in texts])
        sizes += map(len, block)
        ids.append(np.fromiter((index for text in block for index in text), dtype=np.int32))
    if 0 in sizes[1:]:
        row = sizes.index(0, 1) - 1
        what = f"text {row} ({store.texts[row].as_py()[:40]!r}) has no token"
        raise UserError(what, where=f"data '{store.name}'", allowed="another tokenizer, or data without this text")
    offsets = pa.array(np.cumsum(sizes), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate(ids), pa.int32()), type=_column_type())


def _write(path: Path, column: Any) -> None:
    """Write the file beside its place and rename it, so that no process sees a part of it."""
    batch = pa.record_batch([column], schema=pa.schema([pa.field(_COLUMN, column.type, nullable=False)]))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp creates a file that only its owner can read
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
