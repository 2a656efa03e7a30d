"""Job files: Python files whose functions return a `RunConfig`; and table files, whose functions return a `Table`.

A job is named by its file, whose `config()` is then called, or as `FILE.py:NAME` for another of its functions. The file
is run, so it may compute its values. A table is named in the same way, and its function is `table()`.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from distmeta.config.base import to_user_error
from distmeta.config.run import RunConfig
from distmeta.config.table import Table
from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file

MAX_JOB_BYTES = 16 << 20
_MODULE = "_distmeta_job"
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Kind(Generic[Made]):
    """What the functions of a file return, and the name of the function that is called if none is named."""

    made: type[Made]
    default: str
    how: str

    def signature(self, name: str | None = None) -> str:
        return f"def {name or self.default}() -> {self.made.__name__}"


_JOB = _Kind(RunConfig, "config", "{path}:NAME, or python {path} NAME")
_TABLE = _Kind(Table, "table", "{path}:NAME")


def config_of_job(path: Path, name: str | None = None) -> RunConfig:
    """Run a job file and call one of its functions.

    Args:
        path: The file.
        name: The function, which must not need arguments; None takes `config`.

    Raises:
        UserError: The file raises, there is no such function, or it does not return a `RunConfig`.
    """
    return _made_by(path, name, _JOB)


def table_of_file(path: Path, name: str | None = None) -> Table:
    """Run a table file and call one of its functions; None takes `table`. Raises as `config_of_job`."""
    return _made_by(path, name, _TABLE)


def _made_by(path: Path, name: str | None, kind: _Kind[Made]) -> Made:
    module = _run_file(path)
    function = _function_of(module, path, name, kind)
    try:
        made = function()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise _job_error(error, path) from error
    if not isinstance(made, kind.made):
        name, public = name or kind.default, _public_functions(module, kind)
        allowed = kind.signature(name) if name in public or not public else ", ".join(public)
        raise UserError(f"{name}() returned {type(made).__name__}", where=str(path), allowed=allowed)
    return made


def _function_of(module: ModuleType, path: Path, name: str | None, kind: _Kind[Made]) -> Callable[[], Any]:
    """The function called `name` of a job that has been run.

    Raises:
        UserError: There is no such function, or it needs arguments.
    """
    function: object = vars(module).get(kind.default if name is None else name)
    public = _public_functions(module, kind)
    if not callable(function):
        raise _no_function(path, name, public, kind)
    if required := _required_arguments(function):
        what = f"{name or kind.default}() needs arguments ({', '.join(required)})"
        allowed = ", ".join(public) or "a function without required arguments"
        raise UserError(what, where=str(path), allowed=allowed)
    return function


def _no_function(path: Path, name: str | None, public: list[str], kind: _Kind[Made]) -> UserError:
    where = str(path)
    if name:
        allowed = nearest(name, public) if public else kind.signature(name)
        return UserError(f"defines no function '{name}'", where=where, allowed=allowed)
    if not public:
        return UserError(f"defines no function {kind.default}()", where=where, allowed=kind.signature())
    return UserError(
        f"defines no function {kind.default}(), so that one must be named ({kind.how.format(path=path)})",
        where=where,
        allowed=", ".join(public),
    )


def _public_functions(module: ModuleType, kind: _Kind[Made]) -> list[str]:
    """Names of the functions of a job that can be named, sorted.

    These are the public functions without required arguments that the file itself defines and annotates with
    `-> RunConfig`, or with what else it is to return; where no function is annotated so, those without a return
    annotation.
    """
    returns = {
        name: _return_annotation(value)
        for name, value in vars(module).items()
        if isinstance(value, FunctionType)
        and value.__module__ == _MODULE
        and not name.startswith("_")
        and not _required_arguments(value)
    }
    annotated = sorted(name for name, annotation in returns.items() if annotation == kind.made.__name__)
    return annotated or sorted(name for name, annotation in returns.items() if annotation is None)


def _return_annotation(function: FunctionType) -> str | None:
    """The last part of the name of the type that a function is annotated to return; None without an annotation."""
    annotation = function.__annotations__.get("return", inspect.Signature.empty)
    if annotation is inspect.Signature.empty:
        return None
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.strip("'\" ").rpartition(".")[2]


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables of C have no signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _run_file(path: Path) -> ModuleType:
    """Run the file as a module of a private name. Compiled here, so that no byte code is written beside it."""
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses and typing look up the module of the classes that they are given
    content = read_file(path, MAX_JOB_BYTES)
    try:
        code: CodeType = compile(content, str(path), "exec", dont_inherit=True)
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
        return to_user_error(error, source=where)
    if isinstance(error, UserError):
        return UserError(error.what, where=": ".join(filter(None, (where, error.where))), allowed=error.allowed)
    return UserError(f"{type(error).__name__}: {error}", where=where)
