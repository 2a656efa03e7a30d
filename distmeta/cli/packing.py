"""The files sent to a cluster with a job: the working folder without its data, and this package if it is a checkout.

Left out, besides what git ignores:

- whatever begins with a dot (`.git`, `.venv`, `.env`, caches), virtual environments, byte code;
- at the top of the folder: `data`, `datasets`, `raw`, `stores`, `runs`, `mlruns`, `mlartifacts`, `mlflow-unsent`,
  `build`, `dist`;
- `*.arrow` (stores), archives (`*.zip`, `*.tar`, `*.tar.gz`, `*.tgz`), `mlflow.db*`;
- DISTMETA_DATA, DISTMETA_HOME and the folder of the run's checkpoints, where they are below the working folder;
- files of more than 20 MiB, and links to what is not sent or not below the folder; both are reported.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from distmeta.core.errors import UserError
from distmeta.core.paths import expand_user

AT_THE_TOP = ("data", "datasets", "raw", "stores", "runs", "mlruns", "mlartifacts", "mlflow-unsent", "build", "dist")
ANYWHERE = (".*", "__pycache__", "venv", "node_modules", "*.egg-info", "mlflow.db*", "*.arrow")
ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tgz")
LARGE_FILE_BYTES = 20 << 20
MAX_PACKAGE_BYTES = 100 << 20
"""Limit of Ray's job server (`DASHBOARD_CLIENT_MAX_SIZE`); the 500 MiB of its documentation is another limit."""
_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = ("site-packages", "dist-packages")
_GIT_TIMEOUT_S = 30.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive, which Ray then sends once


@dataclass(frozen=True)
class Contents:
    """The files of a package.

    Attributes:
        folder: The working folder.
        files: Path of each file, by its name in the package.
        too_large: Files left out for their size alone.
        links: Links left out because they lead to what is not sent.
    """

    folder: Path
    files: Mapping[str, Path]
    too_large: tuple[str, ...]
    links: tuple[str, ...]

    def name_of(self, file: str) -> str:
        """The name in the package of a file of this machine.

        Raises:
            UserError: It is not in the package.
        """
        path = Path(os.path.realpath(expand_user(file)))
        if not path.is_relative_to(self.folder):
            what, allowed = f"is not below {self.folder}", "a file of the folder that is sent (--working-dir)"
            raise UserError(what, where=file, allowed=allowed)
        name = path.relative_to(self.folder).as_posix()
        if name not in self.files:
            raise UserError("is left out of what is sent", where=file, allowed="a file that is not data (see --help)")
        return name


def collect(folder: Path, *, excludes: Sequence[str] = (), keep_out: Iterable[Path] = ()) -> Contents:
    """Find the files to pack.

    Args:
        folder: The working folder.
        excludes: Further patterns of names (`*.csv`, `notebooks`), or of paths below the folder (`old/*`).
        keep_out: Further folders of data to leave out.

    Raises:
        UserError: There is no such folder, or the name of a file in it is not UTF-8.
    """
    if not os.path.isdir(folder):
        raise UserError("no such folder", where=f"--working-dir {folder}", allowed="the folder that holds the job")
    folder = Path(os.path.realpath(folder))
    outside = [Path(os.path.realpath(path)) for path in keep_out]

    def is_sent(path: Path) -> bool:
        if not path.is_relative_to(folder) or any(path.is_relative_to(data) for data in outside):
            return False
        return not _is_left_out(PurePosixPath(path.relative_to(folder).as_posix()), excludes)

    files, too_large, links = {}, [], []
    for name in sorted(_names(folder)):
        path = folder / name
        if not is_sent(path) or not os.path.isfile(path):
            continue
        if not is_sent(Path(os.path.realpath(path))):
            links.append(name)
        elif path.stat().st_size > LARGE_FILE_BYTES:
            too_large.append(name)
        else:
            files[_in_utf8(name, folder)] = path
    return Contents(folder, {**files, **_own_files()}, tuple(too_large), tuple(links))


def write_package(contents: Contents, path: Path) -> None:
    """Write a zip with the files.

    Raises:
        UserError: It is larger than `MAX_PACKAGE_BYTES`, or a file cannot be read.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(contents.files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            try:
                info.external_attr = (source.stat().st_mode & 0xFFFF) << 16
                archive.writestr(info, source.read_bytes())
            except OSError as error:
                raise UserError(f"cannot be read: {error.strerror}", where=str(source)) from error
            if path.stat().st_size > MAX_PACKAGE_BYTES:
                raise _too_much(contents)


def _names(folder: Path) -> Iterator[str]:
    """Names of the files below a folder: those git would not ignore, or all."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
        listed = done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    if listed:  # a folder that git ignores as a whole is packed as if there were no git
        yield from filter(None, listed.split("\0"))
        return
    for parent, folders, files in os.walk(folder):
        below = PurePosixPath(Path(parent).relative_to(folder).as_posix())
        folders[:] = [name for name in folders if not _is_left_out(below / name, ())]
        yield from (str(below / name) for name in files)


def _in_utf8(name: str, folder: Path) -> str:
    """The name, unless it holds bytes that no name in a zip can have."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the name {name!a} is not UTF-8", where=str(folder), allowed="--exclude PATTERN") from error
    return name


def _is_left_out(path: PurePosixPath, excludes: Sequence[str]) -> bool:
    if path.parts[0] in AT_THE_TOP:
        return True
    patterns = (*ANYWHERE, *ARCHIVES, *excludes)
    return any(fnmatchcase(name, pattern) for name in (*path.parts, str(path)) for pattern in patterns)


def _own_files() -> dict[str, Path]:
    """The files of this package if it runs from a checkout, which the cluster cannot have installed."""
    if set(_INSTALLED) & set(_PACKAGE.parts):
        return {}
    paths = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}": path for path in paths}


def _too_much(contents: Contents) -> UserError:
    sizes = {name: path.stat().st_size for name, path in contents.files.items()}
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    listed = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in largest)
    return UserError(
        f"packs to more than {MAX_PACKAGE_BYTES >> 20} MiB; the largest of {len(sizes)} files: {listed}",
        where=str(contents.folder),
        allowed="less, by --exclude PATTERN or --working-dir DIR; data belongs on the cluster's machines",
    )
