"""Users' own code: `FILE.py:NAME`, loaded from the file whose content has the expected hash.

A file is run once in a process, under a name made of its hash. It is searched for by its hash in the folders of `kept`
(those of a logged model), then from the current folder, then from the folders of `search_path` (that of the driver, in
a worker). What the file imports is looked up as in any program; its own folder is searched, too.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

from distmeta.core.errors import DistmetaError, UserError, nearest
from distmeta.core.files import read_file

MAX_CODE_BYTES = 16 << 20
_MODULE_PREFIX = "_distmeta_code_"
search_path: list[str] = []
"""Further folders in which files are searched for."""
kept: list[Path] = []
"""Folders of files by their hash, as `keep` made them."""


def split_target(target: str) -> tuple[str, str]:
    """File and name of a target.

    Raises:
        ValueError: It is not of the form `FILE.py:NAME`.
    """
    file, _, name = target.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"target '{target[:100]}' is not FILE.py:NAME; allowed: a Python file and a name in it")
    return file, name


def hash_of_target(target: str, where: str) -> str:
    """sha256 of the file of a target.

    Raises:
        UserError: There is no such file.
    """
    return hashlib.sha256(read_file(_find(split_target(target)[0], where), MAX_CODE_BYTES)).hexdigest()


def keep(targets: Iterable[tuple[str, str]], folder: Path) -> None:
    """Copy the files of targets, given with their hashes, to `folder/HASH.py`.

    Raises:
        UserError: A file is missing, or is another one than its hash says.
    """
    for target, sha256 in targets:
        _, content = _content(split_target(target)[0], sha256, target)
        folder.mkdir(exist_ok=True)
        (folder / f"{sha256}.py").write_bytes(content)


def load_target(target: str, sha256: str | None, where: str) -> Any:
    """What a target names.

    Args:
        target: `FILE.py:NAME`.
        sha256: The hash that the file must have; None accepts any.
        where: Field of the configuration, for messages.

    Raises:
        UserError: The file is missing, is another one than the hash says, raises, or has no such name.
    """
    file, name = split_target(target)
    path, content = _content(file, sha256, where)
    module = _run(path, content, hashlib.sha256(content).hexdigest(), where)
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        raise UserError(f"{file} defines no '{name}'", where=where, allowed=nearest(name, public))
    return getattr(module, name)


class Target(Protocol):
    """What names a user's function or class (`distmeta.config.python.OwnCode`)."""

    @property
    def target(self) -> str: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def options(self) -> dict[str, Any]: ...


def instance_of(kind: Any, code: Target, where: str, *arguments: Any) -> Any:
    """Call what a target names, with its options; the result must be of a kind.

    Raises:
        UserError: It cannot be loaded, refuses the arguments, raises, or makes something else.
    """
    make = load_target(code.target, code.sha256, where)
    try:
        made = make(*arguments, **code.options)
    except DistmetaError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"{code.target} raises {type(error).__name__}: {error}", where=where) from error
    if not isinstance(made, kind):
        raise UserError(f"{code.target} made {type(made).__name__}", where=where, allowed=f"a {kind.__name__}")
    return made


def target_of(value: Any) -> str:
    """The target of a function or class: its file, relative to the current folder if it is below, and its name.

    Raises:
        ValueError: It is not defined at the top level of a file.
    """
    name, code = getattr(value, "__qualname__", ""), getattr(value, "__code__", None)
    module = sys.modules.get(getattr(value, "__module__", ""))
    file = code.co_filename if isinstance(code, CodeType) else getattr(module, "__file__", None)
    if not name.isidentifier() or file is None or not os.path.isfile(file):
        what = name or type(value).__name__
        raise ValueError(f"{what} is not defined at the top level of a file; workers could not load it")
    path = os.path.relpath(file)
    return f"{path if not path.startswith(os.pardir) else os.path.abspath(file)}:{name}"


def _content(file: str, sha256: str | None, where: str) -> tuple[Path, bytes]:
    """Path and content of a file, which must have the hash if one is given."""
    path = next((folder / f"{sha256}.py" for folder in kept if (folder / f"{sha256}.py").is_file()), None)
    path = path or _find(file, where)
    content = read_file(path, MAX_CODE_BYTES)
    actual = hashlib.sha256(content).hexdigest()
    if sha256 is not None and actual != sha256:
        raise UserError(
            f"{path} is another file than the one that the run started with (sha256 {actual[:12]}, not {sha256[:12]})",
            where=where,
            allowed="the same file on every machine, and until the run ends",
        )
    return path, content


def _find(file: str, where: str) -> Path:
    folders = [""] if os.path.isabs(file) else ["", *search_path]
    for folder in folders:
        path = Path(folder, file)
        if path.is_file():
            return path
    raise UserError(f"there is no file {file}", where=where, allowed="a file below the current folder, or a full path")


def _run(path: Path, content: bytes, sha256: str, where: str) -> ModuleType:
    name = f"{_MODULE_PREFIX}{sha256[:24]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        del sys.modules[name]
        raise UserError(f"{path} raises {type(error).__name__}: {error}", where=where) from error
    return module
