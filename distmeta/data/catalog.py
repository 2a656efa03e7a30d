"""The class stores of this user: import them, list them, open them by name.

Environment:
    DISTMETA_HOME: Holds `stores/` and `raw/` (default: `~/.cache/distmeta`).
    DISTMETA_DATA: Raw files of benchmark data sets (`omniglot/`, `cifar100/`, `banking77/`, ...), which are imported at
        first use.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import reason
from distmeta.core.paths import data_home, expand_user
from distmeta.data.importers import IMPORTERS, ClassData, ImportOptions
from distmeta.data.importers.arrow import is_table
from distmeta.data.importers.base import require_class_names
from distmeta.data.manifest import MANIFEST_NAME, NAME_PATTERN, Provenance, file_sha256
from distmeta.data.store import ClassStore, require_examples, write_store

_LOG = logging.getLogger(__name__)
_LONGEST_NAME = 128
_UNRECORDED = frozenset({"splits"})
"""Options that are left out of the manifest, which has what became of them."""


def stores_home() -> Path:
    """The folder of the stores that can be opened by name."""
    return data_home() / "stores"


def list_stores() -> list[str]:
    """Sorted names of all stores in `stores_home()`, readable or not.

    Raises:
        UserError: The folder cannot be read.
    """
    home = stores_home()
    if not os.path.isdir(home):
        return []
    try:
        # Temporary folders and locks begin with a dot.
        names = [name for name in os.listdir(home) if name[0] != "."]
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=str(home)) from error
    return sorted(name for name in names if _is_store(home / name) or not os.access(home / name, os.R_OK | os.X_OK))


def import_store(
    kind: str,
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    options: ImportOptions | None = None,
    min_examples: int = 1,
    replace: bool = False,
) -> ClassStore:
    """Import raw files into a store in `stores_home()`.

    Args:
        kind: Name of an importer.
        source: The raw files: a folder or a table, depending on the importer.
        name: Name of the store; default: the importer's name for a benchmark data set, otherwise the source's.
        options: Options of the import; those that this importer does not support must have their default value.
        min_examples: Examples that each class must have.
        replace: Replace a store of the same name.

    Raises:
        UserError: No such importer, a bad name or option, or bad input, whose file is named.
    """
    if kind not in IMPORTERS:
        raise UserError(f"no importer '{kind}'", where="data import", allowed=nearest(kind, IMPORTERS))
    importer, options, path = IMPORTERS[kind], options or ImportOptions(), expand_user(source)
    importer_options = _importer_options(kind, options)
    if not os.path.exists(path):
        raise UserError("no such file or folder", where=str(path), allowed=importer.description)
    name = name or (kind if importer.raw_folder else Path(os.path.realpath(path)).stem)
    require_name(name, replace=replace)
    data = importer.read(path, options)
    return save_store(
        name,
        data,
        importer=kind,
        options=importer_options,
        where=str(path),
        min_examples=min_examples,
        replace=replace,
    )


def require_name(name: str, *, replace: bool) -> None:
    """Check the name of a store before the work; `write_store` checks again whether it is free.

    Raises:
        UserError: It cannot be a name, or is taken.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > _LONGEST_NAME:
        allowed = f"at most {_LONGEST_NAME} letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise UserError(f"store name '{name}'", where="--name", allowed=allowed)
    if os.path.lexists(stores_home() / name) and not replace:
        raise UserError(
            f"a store '{name}' exists already", where=str(stores_home()), allowed="--replace, or another --name"
        )


def save_store(
    name: str,
    data: ClassData,
    *,
    importer: str,
    options: dict[str, Any],
    where: str,
    min_examples: int = 1,
    replace: bool = False,
) -> ClassStore:
    """Write imported data into `stores_home()`.

    Args:
        name: Name of the store.
        data: What was imported.
        importer: How, for the manifest.
        options: The options of the import, for the manifest.
        where: Where the data came from, for messages.
        min_examples: Examples that each class must have.
        replace: Replace a store of the same name.

    Raises:
        UserError: A class has too few examples or a name that cannot be written, or the store cannot be written.
    """
    require_class_names(data.class_names, where)
    noun: Literal["class", "group"] = "group" if data.num_targets else "class"
    require_examples(data.class_names, data.class_counts, min_examples, where, noun)
    return write_store(
        stores_home() / name,
        data.examples,
        class_names=data.class_names,
        class_counts=data.class_counts,
        splits=data.splits,
        provenance=Provenance(
            importer=importer,
            options=options,
            sources=data.sources,
            versions={package: version(package) for package in ("numpy", "pillow", "pyarrow")},
        ),
        num_targets=data.num_targets,
        parts=data.parts,
        replace=replace,
    )


def open_store(name_or_path: str | os.PathLike[str]) -> ClassStore:
    """Open a store by path or name; a benchmark data set is imported first if its raw files are available.

    Safe for concurrent processes: one imports, the others wait.

    Args:
        name_or_path: A folder with a manifest, or the name of a store in `stores_home()`.

    Raises:
        UserError: No such store; the message names the command that creates it, or the closest name.
    """
    name = os.fspath(name_or_path)
    path = expand_user(name)
    if _is_store(path):
        return ClassStore.open(path)
    if os.sep in name:
        raise UserError("is not a class store", where=name, allowed=f"a folder with {MANIFEST_NAME}")
    target = stores_home() / name
    if _is_store(target):
        return ClassStore.open(target)
    importable = [kind for kind, importer in IMPORTERS.items() if importer.raw_folder]
    if name not in importable:
        allowed = nearest(name, {*importable, *list_stores()})
        raise UserError(f"no data '{name}'", where=str(stores_home()), allowed=allowed)
    raw = _raw_folder(name)
    with locked(stores_home() / f".{name}.lock"):
        if not _is_store(target):
            _LOG.info("importing %s from %s", name, raw)
            import_store(name, raw)
    return ClassStore.open(target)


def open_table(name_or_path: str | os.PathLike[str], options: ImportOptions) -> ClassStore:
    """Open the store of a regression table; a file is imported at first use.

    The store of a file is named after the file, its digest and the options, so that a changed file is imported anew and
    all processes of a machine share one store.

    Args:
        name_or_path: Name or folder of a store, or a csv, tsv, parquet, jsonl or Arrow file.
        options: The columns of a file; a store has its own.

    Raises:
        UserError: No such store or file, or bad input in the file.
    """
    path = expand_user(name_or_path)
    if not is_table(path):
        if options != ImportOptions():
            what = f"'{os.fspath(name_or_path)}' is a store, whose columns were named when it was imported"
            raise UserError(what, where="tasks", allowed="no columns, or the file of a table")
        return open_store(name_or_path)
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed="a table, or the name of a store")
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot be read: {reason(error)}", where=str(path)) from error
    key = hashlib.sha256(json.dumps([digest, asdict(options)]).encode()).hexdigest()[:12]
    name = f"{re.sub(r'[^A-Za-z0-9]+', '-', path.stem)[:80].strip('-') or 'table'}-{key}"
    with locked(stores_home() / f".{name}.lock"):
        if not _is_store(stores_home() / name):
            _LOG.info("importing %s", path)
            import_store("regression", path, name=name, options=options)
    return ClassStore.open(stores_home() / name)


def _is_store(path: Path) -> bool:
    return os.path.isfile(path / MANIFEST_NAME)


def _raw_folder(name: str) -> Path:
    folder = IMPORTERS[name].raw_folder or name
    root = os.environ.get("DISTMETA_DATA")
    if root and os.path.isdir(raw := expand_user(root, where="DISTMETA_DATA") / folder):
        return raw
    raise UserError(
        f"data '{name}' is not imported",
        where=str(stores_home()),
        allowed=f"run `distmeta data import {name} SRC` ({IMPORTERS[name].description}), or set DISTMETA_DATA to the"
        f" folder that holds {folder}/",
    )


def _importer_options(kind: str, options: ImportOptions) -> dict[str, Any]:
    """Select the options that the importer supports, for the manifest; all others must have their default value."""
    defaults, supported = asdict(ImportOptions()), IMPORTERS[kind].options
    for field, value in asdict(options).items():
        if field not in supported and value != defaults[field]:
            flags = sorted(f"--{option.replace('_', '-')}" for option in supported)
            raise UserError(
                f"importer '{kind}' does not support --{field.replace('_', '-')}",
                where="data import",
                allowed=", ".join(flags),
            )
    if options.size is not None and not 1 <= options.size <= 4096:
        raise UserError(f"size {options.size}", where="--size", allowed="1 to 4096 pixels")
    values = {field: asdict(options)[field] for field in sorted(supported - _UNRECORDED)}
    return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it when the process dies.

    Args:
        path: The file, which is created; it belongs to what is imported or made.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"cannot be written: {reason(error)}", where=str(path.parent)) from error
    with file:
        _wait_for_lock(file, path)
        yield


def _wait_for_lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _LOG.info("waiting for another process that makes this data (%s)", path)
        fcntl.flock(file, fcntl.LOCK_EX)
