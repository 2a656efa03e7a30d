"""Reading a configuration: from a job file in Python, from YAML or JSON, and changed by `--set`.

A job file defines `def config() -> RunConfig`; it is run, so it may compute its values. YAML and JSON hold the fields
of `RunConfig`; no tag of theirs can make a Python object. Numbers such as `1e-3` are numbers, as in YAML 1.2.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import yaml
from pydantic import ValidationError

from distmeta.config.base import explain
from distmeta.config.override import apply_overrides
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError, nearest

SUFFIXES = (".py", ".yaml", ".yml", ".json")
_JOB_MODULE = "_distmeta_job"
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration and apply overrides to it.

    Args:
        source: Path of a job (`.py`) or of a configuration (`.yaml`, `.yml`, `.json`).
        overrides: Changes such as `outer.lr=0.003`, in order.

    Raises:
        UserError: The file cannot be used, or a value in it or in an override is unknown or impossible.
    """
    path = Path(source).expanduser()
    _require_file(path)
    config = _from_job(path) if path.suffix == ".py" else _from_mapping(_read_mapping(path), str(path))
    return change(config, overrides)


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


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included; `load_config` reads it back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
        raise explain(error, RunConfig, source=source) from error


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


# --- jobs ---


def _from_job(path: Path) -> RunConfig:
    module = _run_job(path)
    function = vars(module).get("config")
    if not callable(function):
        raise UserError("defines no function config()", where=str(path), allowed="def config() -> RunConfig")
    try:
        config = function()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise _job_error(error, path) from error
    if not isinstance(config, RunConfig):
        raise UserError(
            f"config() returned {type(config).__name__}", where=str(path), allowed="def config() -> RunConfig"
        )
    return config


def _run_job(path: Path) -> ModuleType:
    """Run the file as a module of a private name. Compiled here, so that no byte code is written beside it."""
    module = ModuleType(_JOB_MODULE)
    module.__file__ = str(path)
    sys.modules[_JOB_MODULE] = module  # dataclasses and typing look up the module of what they are given
    try:
        code: CodeType = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, vars(module))
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise _job_error(error, path) from error
    return module


def _job_error(error: BaseException, path: Path) -> UserError:
    if isinstance(error, SyntaxError) and error.filename:
        return UserError(f"SyntaxError: {error.msg}", where=f"{error.filename}, line {error.lineno}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    if isinstance(error, ValidationError):
        return explain(error, source=where)
    if isinstance(error, UserError):
        return UserError(error.what, where=": ".join(filter(None, (where, error.where))), allowed=error.allowed)
    return UserError(f"{type(error).__name__}: {error}", where=where)
