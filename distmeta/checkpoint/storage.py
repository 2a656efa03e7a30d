"""Folders on any fsspec file system that are written and removed atomically.

On a local disk a folder is written under a temporary name, synced and renamed. Other file systems (object stores,
memory) have no atomic rename: the folder's marker file is written last and removed first, and a folder without it is
treated as missing.

Errors of the file system raise StoreError. They are never mistaken for an empty store or an incomplete folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from distmeta.core.deadline import answer_within
from distmeta.core.errors import DistmetaError, UserError
from distmeta.tracking.uris import mask_uri

MARKER = "state.json"
"""The marker file of a complete checkpoint folder."""
ANSWER_S = 15.0
"""Time limit of the first contact with a store: some clients retry for minutes, others wait without a limit."""
_SAVING = ".saving-"
_NO_HOST = re.compile(r"ftp://([^@/]*@)?(:\d*)?(/|$)")
_NO_PATH = (errno.ELOOP, errno.ENAMETOOLONG)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class StoreError(DistmetaError):
    """The checkpoint store is full or unavailable.

    Attributes:
        full: Whether the store has no space left.

    Args:
        what: The operation that failed.
        where: Path or URL; its secrets are masked.
        error: The error of the file system.
    """

    def __init__(self, what: str, where: str, error: BaseException) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        self.full = isinstance(error, OSError) and error.errno in _NO_SPACE
        super().__init__(mask_uri(" ".join(f"{where}: {what}: {reason}".split()))[:500])


@dataclass(frozen=True)
class Folder:
    """A folder that may not exist. All methods raise StoreError if the file system fails.

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
            with convert_errors("the store cannot be opened", text, except_for=(ValueError, ImportError)):
                if _NO_HOST.match(text):
                    raise ValueError("the URL names no host")  # fsspec's FTP client prints a stack besides
                fs, path = fsspec.core.url_to_fs(text)
                # fsspec caches listings of object stores; another process may have written since.
                fs.invalidate_cache()
        except (ValueError, ImportError) as error:
            raise UserError(
                mask_uri(str(error)), where=mask_uri(text), allowed="a local path, or a URL that fsspec supports"
            ) from error
        return cls(fs, path)

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.fs, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def url(self) -> str:
        """Argument of `at` for this folder: a plain path on a local disk, otherwise a URL."""
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def shown(self) -> str:
        """The same for messages, with its secrets masked."""
        return mask_uri(self.url)

    def exists(self) -> bool:
        return self._type() is not None

    def is_complete(self) -> bool:
        """Whether the folder has its marker file."""
        return (self / MARKER)._type() == "file"

    def children(self) -> list[Folder]:
        """Files and folders in the folder, sorted by name; empty if it does not exist."""
        if self._type() != "directory":
            return []
        with convert_errors("the folder cannot be listed", self.url):
            try:
                paths = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return [self / name for name in sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            UserError: The file does not exist or is not readable.
        """
        where = (self / name).url
        user_errors = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
        try:
            with convert_errors("the file cannot be read", where, except_for=user_errors):
                return self._content(name)
        except user_errors as error:
            raise UserError(f"the file cannot be read ({type(error).__name__})", where=mask_uri(where)) from error

    def _content(self, name: str) -> bytes:
        try:
            return bytes(self.fs.cat_file((self / name).path))
        except OSError as error:
            if error.errno in _NO_PATH:
                raise FileNotFoundError(error.errno, error.strerror) from error
            raise

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace the folder, atomically, by one with exactly these files, which include the marker."""
        with convert_errors("the checkpoint cannot be written", self.url):
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
        """Remove the folder with its contents, the marker first."""
        with convert_errors("the checkpoint cannot be removed", self.url):
            if self.is_complete():
                self.fs.rm_file((self / MARKER).path)
            if self.exists():
                self.fs.rm(self.path, recursive=True)

    def move(self, target: Folder) -> None:
        """Rename the folder to `target`, which must not exist, on the same file system."""
        with convert_errors("the checkpoints cannot be moved", self.url):
            if self.is_local:
                os.replace(self.path, target.path)
            else:
                self.fs.mv(self.path, target.path, recursive=True)

    def is_leftover(self) -> bool:
        """Whether this is a temporary folder that an interrupted `write` left on a local disk."""
        return self.name.startswith(_SAVING)

    def _type(self) -> str | None:
        """`file`, `directory` or None. Unlike fsspec's `exists` and `isfile`, it does not hide errors."""
        with convert_errors("the store is unavailable", self.url):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError) as error:
                cause = error.__cause__  # over HTTP, a host that cannot be reached is reported as a missing file
                if isinstance(cause, OSError) and cause.errno != errno.ENOENT:
                    raise cause from None
                return None
            except OSError as error:
                if error.errno in _NO_PATH:
                    return None
                raise


def open_folder(url: str | os.PathLike[str], *, where: str | None = None) -> Folder:
    """The folder at a local path or an fsspec URL, in a store that has answered: a command's first contact with it.

    Args:
        url: Path or URL.
        where: Field of the configuration that names it, for the message.

    Raises:
        UserError: As `Folder.at`, or the store fails, or does not answer within ANSWER_S.
    """
    text = os.fspath(url)

    def contact() -> Folder:
        folder = Folder.at(text)
        if not folder.is_local:
            folder.exists()
        return folder

    try:
        return answer_within(ANSWER_S, contact)
    except (StoreError, TimeoutError) as error:
        what = str(error) if isinstance(error, StoreError) else mask_uri(f"{text}: {error}")
        raise UserError(what, where=where, allowed="a local path, or the URL of a store that answers") from error
    except UserError as error:
        if where is None:
            raise
        raise UserError(f"{error.where}: {error.what}", where=where, allowed=error.allowed) from error


@contextlib.contextmanager
def convert_errors(what: str, where: str, except_for: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert errors of a file system to StoreError.

    Any Exception is converted, because each file system raises errors of its own network or client library.

    Args:
        what: The operation, for the message.
        where: Path or URL, for the message.
        except_for: Errors that are not converted.
    """
    unchanged: tuple[type[Exception], ...] = (StoreError, *except_for)
    try:
        yield
    except unchanged:
        raise
    except Exception as error:
        raise StoreError(what, where, error) from error


def _write_local(folder: Path, files: Mapping[str, bytes]) -> None:
    new, old = (folder.with_name(f"{_SAVING}{kind}-{folder.name}") for kind in ("new", "old"))
    for path in (new, old):
        if path.exists():
            shutil.rmtree(path)
    try:
        _write_files(new, files)
        if folder.exists():
            # A folder that is not empty cannot be replaced in one rename.
            os.replace(folder, old)
        os.replace(new, folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)  # free the space on a full disk
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    _sync(folder.parent)
    if old.exists():
        shutil.rmtree(old)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        with open(folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    """Sync the directory entries of a folder, without which a rename may be lost in a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
