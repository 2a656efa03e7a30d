"""What the commands of `distmeta bench` share: options, lists with commas, tables, files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from distmeta.core.errors import UserError

_WIDTH = 140  # room for every column
_BUSY = 0.15

RoundsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Timed rounds; medians are reported.")]
OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Write a JSON file and a picture there.")]


def print_machine(line: str, busy: float) -> None:
    """The machine, and a warning if others keep it busy."""
    print(line)
    if busy > _BUSY:
        print(f"other work keeps {100 * busy:.0f}% of the processors busy: the numbers will not be this machine's best")


def print_wide(lines: Sequence[Mapping[str, object]]) -> None:
    """A table of numbers at its full width, also in a pipe or a narrow terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(lines[0]):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for line in lines:
        table.add_row(*("-" if value is None else str(value) for value in line.values()))
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(table)


def names_in(values: list[str] | None, default: Iterable[str]) -> list[str]:
    """The names of a repeatable option that takes lists with commas; each once."""
    if not values:
        return list(default)
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",")))


def numbers_in(text: str, option: str) -> tuple[int, ...]:
    """Positive whole numbers with commas between them.

    Raises:
        UserError: Anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"'{text}'", where=option, allowed="positive whole numbers, with commas between them: 5,10,20")
    return tuple(dict.fromkeys(int(part) for part in parts))


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a JSON file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
