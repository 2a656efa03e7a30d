"""Options of `distmeta bench`, and lists with commas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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


def numbers_in(text: str, option: str, min_count: int = 1) -> tuple[int, ...]:
    """Positive whole numbers with commas between them; each once.

    Raises:
        UserError: Anything else, or fewer than `min_count`.
    """
    allowed = "positive whole numbers, with commas between them: 5,10,20"
    return _values(text, option, int, 1, allowed, min_count)


def sizes_in(text: str, option: str, min_count: int = 1) -> tuple[float, ...]:
    """Sizes in MB, as `numbers_in`."""
    allowed = "sizes in MB from 0.001, with commas between them: 0.5,20"
    return _values(text, option, float, 0.001, allowed, min_count)


def _values(
    text: str, option: str, parse: Callable[[str], Value], least: float, allowed: str, min_count: int
) -> tuple[Value, ...]:
    try:
        values = tuple(dict.fromkeys(parse(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value >= least for value in values):
        raise UserError(f"'{text}'", where=option, allowed=allowed)
    if len(values) < min_count:
        raise UserError(f"{values[0]} alone", where=option, allowed="two values or more, with a comma between them")
    return values
