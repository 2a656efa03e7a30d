"""Folders on any fsspec file system, written so that a crash at any moment leaves whole folders only.

On a local disk a folder is written under another name, flushed to the disk and renamed. Elsewhere (object stores,
memory) there is no rename to rely on: the folder's marker file is written last and removed first, and a folder without
it is treated as if it did not exist.

A store that fails raises a StoreError; it is never taken for an empty one, and no folder for half-written, because an
answer did not come.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from distmeta.core.errors import DistmetaError, UserError
from distmeta.tracking.uris import mask_uri

MARKER = "state.json"
"""The file that makes a folder a checkpoint."""
_SAVING = ".saving-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreError(DistmetaError):
    """The place of the checkpoints fails: it is full, gone, or does not answer.

    Args:
        what: What could not be done.
        where: Where; secrets in it are masked.
        error: What the file system raised.
    """

    def __init__(self, what: str, where: str, error: BaseException) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        self.full = isinstance(error, OSError) and error.errno in _FULL
        super().__init__(mask_uri(" ".join(f"{where}: {what}: {reason}".split()))[:500])


@dataclass(frozen=True)
class Folder:
    """A folder that may or may not exist. Every method raises StoreError where the file system fails.

    Attributes:
        fs: The fsspec file system.
        path: Path within it.
    """

    fs: Any
    path: str

    @classmethod
    def at(cls, url: str | os.PathLike[str]) -> Folder:
        """The folder at a local path or an fsspec URL.

        Raises:
            UserError: The URL's protocol is unknown, or its package is not installed.
        """
        text = os.fspath(url)
        try:
            with store_errors("the store cannot be opened", text, but=(ValueError, ImportError)):
                fs, path = fsspec.core.url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise UserError(
                mask_uri(str(error)), where=mask_uri(text), allowed="a local path, or a URL that fsspec knows"
            ) from error
        # Object stores keep listings; another process may have written since.
        fs.invalidate_cache()
        return cls(fs, path)

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.fs, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        """True on a local disk."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def url(self) -> str:
        """What `at` takes to come here again: a plain path on a local disk."""
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    def exists(self) -> bool:
        """True if there is a file or folder here."""
        return self._type() is not None

    def is_marked(self) -> bool:
        """True if the folder is whole."""
        return (self / MARKER)._type() == "file"

    def children(self) -> list[Folder]:
        """What lies in the folder, in the order of names; nothing if it does not exist."""
        if self._type() != "directory":
            return []
        with store_errors("the folder cannot be listed", self.url):
            try:
                paths = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return [self / name for name in sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            UserError: There is none, or it may not be read.
        """
        where = (self / name).url
        mistakes = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
        try:
            with store_errors("the file cannot be read", where, but=mistakes):
                return bytes(self.fs.cat_file((self / name).path))
        except mistakes as error:
            raise UserError(f"the file cannot be read ({type(error).__name__})", where=mask_uri(where)) from error

    def write(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold exactly these files, the marker among them, all at once."""
        with store_errors("the checkpoint cannot be written", self.url):
            if self.is_local:
                _write_local(Path(self.path), files)
            else:
                self._write_marker_last(files)

    def _write_marker_last(self, files: Mapping[str, bytes]) -> None:
        self.remove()
        self.fs.makedirs(self.path, exist_ok=True)
        for name in sorted(files, key=lambda name: (name == MARKER, name)):
            self.fs.pipe_file((self / name).path, files[name])

    def remove(self) -> None:
        """Remove the folder with all it holds, the marker first."""
        with store_errors("the checkpoint cannot be removed", self.url):
            if self.is_marked():
                self.fs.rm_file((self / MARKER).path)
            if self.exists():
                self.fs.rm(self.path, recursive=True)

    def move(self, target: Folder) -> None:
        """Rename the folder to one that does not exist, on the same file system."""
        with store_errors("the checkpoints cannot be moved", self.url):
            if self.is_local:
                os.replace(self.path, target.path)
            else:
                self.fs.mv(self.path, target.path, recursive=True)

    def is_debris(self) -> bool:
        """True for what a crash within `write` left behind on a local disk."""
        return self.name.startswith(_SAVING)

    def _type(self) -> str | None:
        """`file`, `directory` or None. fsspec's own `exists` and `isfile` take any failure for a no."""
        with store_errors("the store does not answer", self.url):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError):
                return None


@contextlib.contextmanager
def store_errors(what: str, where: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a file system raises into a StoreError.

    Each file system has errors of its own (its network's, its client's), hence any Exception is taken.

    Args:
        what: What fails, for the message.
        where: Path or URL, for the message.
        but: Errors to let pass.
    """
    passed: tuple[type[Exception], ...] = (StoreError, *but)
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise StoreError(what, where, error) from error


def _write_local(folder: Path, files: Mapping[str, bytes]) -> None:
    saving, aside = (folder.with_name(f"{_SAVING}{kind}-{folder.name}") for kind in ("new", "old"))
    for path in (saving, aside):
        if path.exists():
            shutil.rmtree(path)
    try:
        _write_files(saving, files)
        if folder.exists():
            # A folder that is not empty cannot be replaced in one rename.
            os.replace(folder, aside)
        os.replace(saving, folder)
    except OSError:
        shutil.rmtree(saving, ignore_errors=True)  # a disk that is full needs the room
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        raise
    _sync(folder.parent)
    if aside.exists():
        shutil.rmtree(aside)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        with open(folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Flush a folder's list of names, without which a rename may not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
