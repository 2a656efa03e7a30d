"""Reading a configuration: from a job file in Python, from YAML or JSON, and changed by `--set`.

A job file holds functions that return a `RunConfig` (`distmeta.config.job`). YAML and JSON hold the fields of
`RunConfig`; no tag of theirs can make a Python object. Numbers such as `1e-3` are numbers, as in YAML 1.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distmeta.config.base import to_user_error
from distmeta.config.job import config_of_job
from distmeta.config.override import apply_overrides
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError, nearest

SUFFIXES = (".py", ".yaml", ".yml", ".json")
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


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


def split_source(source: str) -> tuple[Path, str | None]:
    """Split `FILE.py:NAME` into the file and the name of a function; the name is None where there is none.

    A path may contain colons: a file that exists under the whole of `source` is that file.
    """
    whole = Path(source).expanduser()
    file, _, name = source.rpartition(":")
    if whole.exists() or Path(file).suffix not in SUFFIXES or "/" in name:
        return whole, None
    return Path(file).expanduser(), name


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
    return yaml.dump(fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_value(text: str) -> Any:
    """A value as YAML writes it: `3`, `1e-3`, `true`, `null`, `cosine`, `[0.9, 0.99]`, `{steps: 3}`.

    Raises:
        UserError: Not YAML.
    """
    return _parse_yaml(text, "--set")


def _require_file(path: Path) -> None:
    kinds = ", ".join(SUFFIXES)
    if path.is_dir():
        raise UserError("is a folder", where=str(path), allowed=f"a file: {kinds}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"a configuration of kind '{path.suffix}'", where=str(path), allowed=kinds)
    if not path.is_file():
        siblings = [each.name for each in path.parent.glob("*") if each.suffix in SUFFIXES]
        raise UserError("no such file", where=str(path), allowed=nearest(path.name, siblings) or f"a file: {kinds}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error


def _from_mapping(values: Any, source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise to_user_error(error, RunConfig, source=source) from error


# --- YAML and JSON ---


class _Loader(yaml.SafeLoader):
    """YAML without Python objects and without silently repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        _require_unique((key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)), node.start_mark.line)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full."""
        return True


for _class in (_Loader, _Dumper):  # YAML 1.1, PyYAML's, takes 1e-3 for text
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _read_mapping(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    values = _parse_json(text, str(path)) if path.suffix == ".json" else _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"holds a {type(values).__name__}, not fields"
        raise UserError(what, where=str(path), allowed="a mapping of fields")
    return values


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise UserError(f"not valid YAML: {error.problem}{line}", where=source, allowed="plain YAML values") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"not valid YAML: {error}", where=source) from error


def _parse_json(text: str, source: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_unique((key for key, _ in pairs), None)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=source) from error


def _require_unique(keys: Iterable[str], line: int | None) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            place = "" if line is None else f" in the mapping that starts on line {line + 1}"
            raise ValueError(f"the field '{key}' is given twice{place}")
        seen.add(key)
