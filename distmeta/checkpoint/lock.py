"""The lock of a run: one process at a time writes its checkpoints.

local disk           flock on `<checkpoint.path>/.<name>.lock`; the system releases it when the process ends, however
other file systems   the same file holds its owner and a time that the owner renews; a lock that is not renewed for
                     STALE_S has lost its owner
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from distmeta.checkpoint.reading import runs_folder
from distmeta.checkpoint.storage import Folder, StoreError, convert_errors
from distmeta.core.errors import UserError
from distmeta.tracking.uris import mask_uri

RENEW_S = 10.0
STALE_S = 60.0
_SETTLE_S = 0.3
"""How long after writing a lock its owner looks whether another process has written it at the same time."""


@contextlib.contextmanager
def run_lock(root: str, name: str) -> Iterator[None]:
    """Hold the lock of the run `name` in the `checkpoint.path` `root`.

    Raises:
        UserError: Another process holds it, or it cannot be created.
    """
    folder = runs_folder(root)
    file = f".{name}.lock"
    hold = _local_lock(Path(folder.path), file, name) if folder.is_local else _remote_lock(folder, file, name)
    with hold:
        yield


def _owner() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "token": secrets.token_hex(8)}


def _taken(name: str, owner: object, where: str) -> UserError:
    by = f" by process {owner.get('pid')} on {owner.get('host')}" if isinstance(owner, dict) else ""
    return UserError(
        f"the run '{name}' is being trained{by}",
        where=mask_uri(where),
        allowed="another run name, or this one when that process has ended",
    )


@contextlib.contextmanager
def _local_lock(folder: Path, file: str, name: str) -> Iterator[None]:
    path = folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        what = f"checkpoints cannot be written ({error.strerror})"
        raise UserError(what, where=f"checkpoint.path: {folder}", allowed="a writable folder or URL") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(name, _parsed(os.pread(descriptor, 4096, 0)), str(folder / name)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_owner()).encode(), 0)
        yield
    finally:
        os.close(descriptor)  # the file stays: removing it while another process opens it would make two locks


@contextlib.contextmanager
def _remote_lock(folder: Folder, file: str, name: str) -> Iterator[None]:
    owner = _owner()
    try:
        _acquire(folder, file, name, owner)
    except StoreError as error:
        raise UserError(str(error), where="checkpoint.path", allowed="a writable folder or URL") from error
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_S):
            with contextlib.suppress(StoreError):  # the store may be unavailable for a while
                _write(folder, file, owner)

    thread = threading.Thread(target=renew, name="run-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(StoreError), convert_errors("the lock cannot be removed", folder.url):
            folder.fs.rm_file((folder / file).path)


def _acquire(folder: Folder, file: str, name: str, owner: dict[str, object]) -> None:
    holder = _read(folder, file)
    if holder is not None and time.time() - holder.get("time", 0.0) < STALE_S:
        raise _taken(name, holder, (folder / name).url)
    _write(folder, file, owner)
    time.sleep(_SETTLE_S)
    holder = _read(folder, file)
    if holder is not None and holder.get("token") != owner["token"]:
        raise _taken(name, holder, (folder / name).url)


def _write(folder: Folder, file: str, owner: dict[str, object]) -> None:
    with convert_errors("the run's lock cannot be written", folder.url):
        folder.fs.makedirs(folder.path, exist_ok=True)
        folder.fs.pipe_file((folder / file).path, json.dumps({**owner, "time": time.time()}).encode())


def _read(folder: Folder, file: str) -> dict[str, float] | None:
    with convert_errors("the run's lock cannot be read", folder.url):
        try:
            return _parsed(folder.fs.cat_file((folder / file).path))
        except FileNotFoundError:
            return None


def _parsed(content: bytes) -> dict[str, float] | None:
    try:
        owner = json.loads(content)
    except ValueError:
        return None
    return owner if isinstance(owner, dict) else None
