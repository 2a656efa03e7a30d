"""Download raw files from their official URLs, each checked against a published digest.

A file is streamed to a temporary `.part` file and renamed only when its digest matches. CIFAR-100 is not included,
because it is published as a pickle, and no pickle is ever loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import reason

_BLOCK_BYTES = 1 << 20
_MAX_BYTES = 1 << 30  # of one file; the largest of them has 30 MB
_TIMEOUT_S = 30.0  # of each network operation


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    Attributes:
        name: File name, below the data set's URL and in the destination.
        algorithm: `sha256`, or `md5` if that is all that is published.
        digest: Expected digest, hexadecimal.
    """

    name: str
    algorithm: str
    digest: str


@dataclass(frozen=True)
class RemoteData:
    """The files of one data set, and the URL of their folder."""

    url: str
    files: tuple[RemoteFile, ...]


def _sha256(name: str, digest: str) -> RemoteFile:
    return RemoteFile(name, "sha256", digest)


_GITHUB = "https://raw.githubusercontent.com"

REMOTE: dict[str, RemoteData] = {
    "omniglot": RemoteData(
        f"{_GITHUB}/brendenlake/omniglot/master/python",
        (
            RemoteFile("images_background.zip", "md5", "68d2efa1b9178cc56df9314c21c6e718"),
            RemoteFile("images_evaluation.zip", "md5", "6b91aef0f799c5bb55b94e3f2daec811"),
        ),
    ),
    "fashion_mnist": RemoteData(
        f"{_GITHUB}/zalandoresearch/fashion-mnist/master/data/fashion",
        (
            _sha256("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            _sha256("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            _sha256("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            _sha256("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
    "clinc150": RemoteData(
        f"{_GITHUB}/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data",
        (
            _sha256("data_full.json", "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0"),
            _sha256("domains.json", "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a"),
        ),
    ),
    "banking77": RemoteData(
        f"{_GITHUB}/PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data",
        (
            _sha256("categories.json", "53261da888122daf2d120d925458631d9619e15d82e56052e7a42e535ce32b63"),
            _sha256("train.csv", "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b"),
            _sha256("test.csv", "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d"),
        ),
    ),
}


def fetch(name: str, destination: Path, *, remote: Mapping[str, RemoteData] = REMOTE) -> list[Path]:
    """Download the files of a data set; existing files with the right digest are not downloaded again.

    Args:
        name: Name of the data set.
        destination: Folder for the files; created if missing.
        remote: Data sets by name.

    Returns:
        The files.

    Raises:
        UserError: No such data set, no network, a file whose digest is not the expected one, or one that cannot be
            written. Folders that were made for the files are then removed again.
    """
    if name not in remote:
        raise UserError(f"no data '{name}' to download", where="data fetch", allowed=nearest(name, remote))
    data = remote[name]
    with _new_folders(destination):
        for file in data.files:
            _fetch_file(f"{data.url}/{file.name}", file, destination / file.name)
    return [destination / file.name for file in data.files]


@contextlib.contextmanager
def _new_folders(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after an error, remove those that were made here and are still empty."""
    missing = list(itertools.takewhile(lambda each: not os.path.lexists(each), [folder, *folder.parents]))
    try:
        _make(folder)
        yield
    except BaseException:  # also an interrupt
        with contextlib.suppress(OSError):
            for each in missing:
                each.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made: {reason(error)}"
        raise UserError(what, where=str(folder), allowed="--to DIR, a folder that can be written") from error


def _fetch_file(url: str, expected: RemoteFile, path: Path) -> None:
    try:
        if _has_digest(path, expected):
            return
        descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as sink:
                for block in _blocks(url, expected):
                    sink.write(block)
                sink.flush()
                os.fsync(sink.fileno())
            Path(part).chmod(0o644)  # mkstemp creates a file that only its owner can read
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written: {reason(error)}", where=str(path)) from error


def _has_digest(path: Path, expected: RemoteFile) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, expected.algorithm).hexdigest() == expected.digest


def _blocks(url: str, expected: RemoteFile) -> Iterator[bytes]:
    """The content of a file, from the network; ends with an error if the digest is not the expected one."""
    digest, size = hashlib.new(expected.algorithm, usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            while block := response.read(_BLOCK_BYTES):
                size += len(block)
                if size > _MAX_BYTES:
                    raise UserError(f"is larger than {_MAX_BYTES} bytes", where=url, allowed=expected.digest)
                digest.update(block)
                yield block
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise UserError(f"cannot be downloaded: {error}", where=url, allowed="a working network connection") from error
    if digest.hexdigest() != expected.digest:
        raise UserError(f"the {expected.algorithm} digest is {digest.hexdigest()}", where=url, allowed=expected.digest)
