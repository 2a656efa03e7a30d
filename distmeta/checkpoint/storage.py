"""Folders on any fsspec file system, written so that a crash at any moment leaves whole folders only.

On a local disk a folder is written under another name, flushed to the disk and renamed. Elsewhere (object stores,
memory) there is no rename to rely on: the folder's marker file is written last and removed first, and a folder without
it is treated as if it did not exist.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from distmeta.errors import UserError

MARKER = "state.json"
"""The file that makes a folder a checkpoint."""
_SAVING = ".saving-"


@dataclass(frozen=True)
class Folder:
    """A folder that may or may not exist.

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
            fs, path = fsspec.core.url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise UserError(str(error), where=text, allowed="a local path, or a URL that fsspec knows") from error
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
        return bool(self.fs.exists(self.path))

    def is_marked(self) -> bool:
        """True if the folder is whole."""
        return bool(self.fs.isfile((self / MARKER).path))

    def children(self) -> list[Folder]:
        """What lies in the folder, in the order of names; nothing if it does not exist."""
        if not self.fs.isdir(self.path):
            return []
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(self.path, detail=False)}
        return [self / name for name in sorted(names)]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            UserError: It cannot be read.
        """
        try:
            return bytes(self.fs.cat_file((self / name).path))
        except OSError as error:
            raise UserError(f"the file cannot be read ({type(error).__name__})", where=(self / name).url) from error

    def write(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold exactly these files, the marker among them, all at once.

        Raises:
            UserError: The disk is full, the folder cannot be made, ...
        """
        try:
            if self.is_local:
                _write_local(Path(self.path), files)
            else:
                self._write_marker_last(files)
        except OSError as error:
            raise UserError(f"the checkpoint cannot be written: {error}", where=self.url) from error

    def _write_marker_last(self, files: Mapping[str, bytes]) -> None:
        self.remove()
        self.fs.makedirs(self.path, exist_ok=True)
        for name in sorted(files, key=lambda name: (name == MARKER, name)):
            self.fs.pipe_file((self / name).path, files[name])

    def remove(self) -> None:
        """Remove the folder with all it holds, the marker first."""
        if self.is_marked():
            self.fs.rm_file((self / MARKER).path)
        if self.exists():
            self.fs.rm(self.path, recursive=True)

    def move(self, target: Folder) -> None:
        """Rename the folder to one that does not exist, on the same file system.

        Raises:
            UserError: It cannot be moved.
        """
        try:
            if self.is_local:
                os.replace(self.path, target.path)
            else:
                self.fs.mv(self.path, target.path, recursive=True)
        except OSError as error:
            raise UserError(f"the checkpoints cannot be moved: {error}", where=self.url) from error

    def is_debris(self) -> bool:
        """True for what a crash within `write` left behind on a local disk."""
        return self.name.startswith(_SAVING)


def _write_local(folder: Path, files: Mapping[str, bytes]) -> None:
    saving, aside = (folder.with_name(f"{_SAVING}{kind}-{folder.name}") for kind in ("new", "old"))
    for path in (saving, aside):
        if path.exists():
            shutil.rmtree(path)
    saving.mkdir(parents=True)
    for name, content in files.items():
        with open(saving / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(saving)
    if folder.exists():
        # A folder that is not empty cannot be replaced in one rename.
        os.replace(folder, aside)
    os.replace(saving, folder)
    _sync(folder.parent)
    if aside.exists():
        shutil.rmtree(aside)


def _sync(folder: Path) -> None:
    """Flush a folder's list of names, without which a rename may not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
