"""What commands print: tables for people, one JSON line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import typer

from distmeta.core.errors import UserError, nearest
from distmeta.core.files import write_file
from distmeta.core.json_values import finite

WHICH = ("latest", "best")
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout; all else goes to stderr.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Run the code that the checkpoint names: a network or tasks of one's own.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change one field of the configuration, e.g. --set outer.lr=0.003. The value is written as in YAML. "
        "May be repeated; later ones win.",
    ),
]


@contextmanager
def people_read(as_json: bool) -> Iterator[None]:
    """Send to stderr what is printed inside, when stdout is for a program."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line. A number that JSON does not have (NaN, infinity) is null."""
    print(json.dumps(finite(value), allow_nan=False), flush=True)


def print_values(values: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    flat = list(_flatten(values))
    width = max((len(name) for name, _ in flat), default=0)
    for name, value in flat:
        print(f"{name:<{width}}  {_text(value)}")


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows that have the same keys as columns under those names."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None)
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")  # a path is for copying: never cut
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(markup=False, highlight=False).print(table)  # names may hold square brackets


def one_line(error: Exception | str) -> str:
    """The text of an error without its line breaks; characters that a terminal would obey are escaped."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def choose(value: str, allowed: Iterable[str], option: str) -> str:
    """Return `value` if it is allowed.

    Raises:
        UserError: It is not; names the nearest one.
    """
    names = list(allowed)
    if value not in names:
        raise UserError(f"unknown value '{value}'", where=option, allowed=nearest(value, names))
    return value


def which_option(value: str, path: str) -> Literal["latest", "best"]:
    """The value of `--which` for the checkpoint or the run at `path`.

    Raises:
        UserError: Neither of the two, or `best` of a run none of whose checkpoints has a score.
    """
    if choose(value, WHICH, "--which") == "latest":
        return "latest"
    from distmeta.checkpoint.reading import best_step, checkpoints_by_step  # imports torch
    from distmeta.checkpoint.storage import Folder

    run = Folder.at(path)
    if not run.is_complete() and checkpoints_by_step(run) and best_step(run) is None:
        raise UserError(
            f"no checkpoint in {run.shown} has a validation score",
            where="--which best",
            allowed="--which latest, or a run with evaluation.every",
        )
    return "best"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return "-" if value is None else str(value)


class Drawn(Protocol):
    """A result with numbers and pictures."""

    def to_json(self) -> dict[str, Any]: ...

    def draw(self, folder: Path) -> list[Path]: ...


def write_result(folder: Path, name: str, result: Drawn) -> list[Path]:
    """Write the pictures of a result and its numbers, as the file `name`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write_file(path, json.dumps(finite(result.to_json()), indent=2, allow_nan=False).encode())
    return [path, *result.draw(folder)]
