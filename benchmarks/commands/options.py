"""Options of `distmeta bench`, and lists with commas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from distmeta.core.errors import UserError

Value = TypeVar("Value", int, float)
RoundsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Timed rounds; medians are reported.")]
OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Write a JSON file and a picture there.")]


def names_in(values: list[str] | None, default: Iterable[str]) -> list[str]:
    """The names of a repeatable option that takes lists with commas; each once."""
    if not values:
        return list(default)
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",")))


def numbers_in(text: str, option: str, at_least: int = 1) -> tuple[int, ...]:
    """Positive whole numbers with commas between them; each once.

    Raises:
        UserError: Anything else, or fewer than `at_least`.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"'{text}'", where=option, allowed="positive whole numbers, with commas between them: 5,10,20")
    return _several(dict.fromkeys(int(part) for part in parts), option, at_least)


def sizes_in(text: str, option: str, at_least: int = 1) -> tuple[float, ...]:
    """Sizes in MB with commas between them; each once.

    Raises:
        UserError: Anything else, or fewer than `at_least`.
    """
    try:
        sizes = dict.fromkeys(float(part) for part in text.split(","))
    except ValueError:
        sizes = {}
    if not sizes or not all(math.isfinite(size) and size >= 0.001 for size in sizes):
        raise UserError(f"'{text}'", where=option, allowed="sizes in MB from 0.001, with commas between them: 0.5,20")
    return _several(sizes, option, at_least)


def _several(values: Iterable[Value], option: str, at_least: int) -> tuple[Value, ...]:
    result = tuple(values)
    if len(result) < at_least:
        raise UserError(f"{result[0]} alone", where=option, allowed="two values or more, with a comma between them")
    return result
