"""Reading a configuration: from a job file in Python, from YAML or JSON, and changed by `--set`.

A job file holds functions that return a `RunConfig` (`distmeta.config.job`). YAML and JSON hold the fields of
`RunConfig` (`distmeta.config.text`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distmeta.config.base import to_user_error
from distmeta.config.job import config_of_job, table_of_file
from distmeta.config.override import apply_overrides
from distmeta.config.run import RunConfig
from distmeta.config.table import Table
from distmeta.config.text import MAX_CHARACTERS, dump_yaml, parse_json, parse_yaml
from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file
from distmeta.core.paths import expand_user

SUFFIXES = (".py", ".yaml", ".yml", ".json")


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration and apply overrides to it.

    Args:
        source: Path of a configuration (`.yaml`, `.yml`, `.json`) or of a job (`.py`), whose `config()` is called;
            `FILE.py:NAME` calls another function of the job.
        overrides: Changes such as `outer.lr=0.003`, in order.

    Raises:
        UserError: The file cannot be used, or a value in it or in an override is unknown or impossible.
    """
    path, function = split_source(source)
    _require_file(path)
    if path.suffix == ".py":
        config = config_of_job(path, function)
    elif function is not None:
        raise UserError(f"':{function}' after a {path.suffix} file", where=str(path), allowed="FILE.py:NAME")
    else:
        config = _from_mapping(_read_mapping(path), str(path))
    return change(config, overrides)


def load_table(source: str) -> tuple[Table, Path]:
    """Run a table file.

    Args:
        source: Path of the file (`.py`), whose `table()` is called; `FILE.py:NAME` calls another function.

    Returns:
        The table and the file.

    Raises:
        UserError: The file cannot be used.
    """
    path, function = split_source(source)
    _require_file(path)
    if path.suffix != ".py":
        raise UserError(f"a table of kind '{path.suffix}'", where=str(path), allowed=".py")
    return table_of_file(path, function), path


def split_source(source: str) -> tuple[Path, str | None]:
    """Split `FILE.py:NAME` into the file and the name of a function; the name is None where there is none.

    A path may contain colons: a file that exists under the whole of `source` is that file.
    """
    whole = expand_user(source)
    file, _, name = source.rpartition(":")
    if os.path.exists(whole) or Path(file).suffix not in SUFFIXES or "/" in name:
        return whole, None
    return expand_user(file), name


def change(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration with overrides such as `outer.lr=0.003` applied, validated as a whole.

    Args:
        config: What to change; it stays as it is.
        overrides: `path=value` each; later ones win.

    Raises:
        UserError: An override is not of that form, or its field or value is unknown or impossible.
    """
    if not overrides:
        return config
    return _from_mapping(apply_overrides(config.model_dump(mode="json"), overrides, RunConfig, parse_value), "--set")


def to_yaml(config: RunConfig | Mapping[str, object]) -> str:
    """The whole configuration as YAML, defaults included; `load_config` reads it back to an equal one."""
    fields = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config)
    return dump_yaml(fields)


def parse_value(text: str) -> Any:
    """A value as YAML writes it: `3`, `1e-3`, `true`, `null`, `cosine`, `[0.9, 0.99]`, `{steps: 3}`.

    Raises:
        UserError: Not YAML.
    """
    return parse_yaml(text, "--set")


def _require_file(path: Path) -> None:
    kinds = ", ".join(SUFFIXES)
    if os.path.isdir(path):
        raise UserError("is a folder", where=str(path), allowed=f"a file: {kinds}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"a configuration of kind '{path.suffix}'", where=str(path), allowed=kinds)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UserError("is a pipe, a device or a broken link", where=str(path), allowed=f"a file: {kinds}")
    if not os.path.isfile(path):
        raise UserError("no such file", where=str(path), allowed=_similar(path) or f"a file: {kinds}")


def _similar(path: Path) -> str:
    """Configurations in the folder of `path`; none where it cannot be read."""
    try:
        return nearest(path.name, [name for name in os.listdir(path.parent) if name.endswith(SUFFIXES)])
    except OSError:
        return ""


def _read_text(path: Path) -> str:
    try:
        return read_file(path, MAX_CHARACTERS).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error


def _from_mapping(values: Any, source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise to_user_error(error, RunConfig, source=source) from error


def _read_mapping(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    values = parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"holds a {type(values).__name__}, not fields"
        raise UserError(what, where=str(path), allowed="a mapping of fields")
    return values
