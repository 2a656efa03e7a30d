"""Types of fields, with bounds that no reasonable run reaches: a mistyped value is refused before memory is used."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

MAX_SEED = 2**64 - 1
MAX_TASKS = 1_000_000
"""Tasks of one outer step or of one evaluation, whose specs are in memory together."""
MAX_SHARD_EXAMPLES = 10_000_000
"""Examples of all tasks of one shard, which are in memory together."""
MAX_PARAMETERS = 1_000_000_000
"""Parameters of a network."""
_MAX_CHARACTERS = 4096


def _is_plain(text: str) -> str:
    """Check a text without showing it: it may hold a password."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; allowed: at most {_MAX_CHARACTERS}")
    if not text.isprintable():
        character = next(each for each in text if not each.isprintable())
        raise ValueError(f"the character {character!a} is not printable; allowed: printable text")
    return text


def _is_parsed(text: str) -> str:
    """Check a text that may be a URL."""
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https"):  # in others, a password may look like a port
            _ = parts.port
    except ValueError:
        raise ValueError("it cannot be parsed as a URL; allowed: a path, or SCHEME://HOST:PORT/PATH") from None
    return text


Text = Annotated[str, AfterValidator(_is_plain)]
Url = Annotated[Text, AfterValidator(_is_parsed)]
"""A path or a URL."""
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
PositiveCount = Annotated[int, Field(gt=0, le=10**12)]
NonNegativeCount = Annotated[int, Field(ge=0, le=10**12)]
Tasks = Annotated[int, Field(gt=0, le=MAX_TASKS)]
Examples = Annotated[int, Field(gt=0, le=1_000_000)]
Length = Annotated[int, Field(ge=4, le=1_000_000)]
"""Tokens of a text, of which two or three may be special ones."""
Ways = Annotated[int, Field(ge=2, le=1_000_000)]
Range = tuple[Annotated[float, Field(ge=-1e9, le=1e9)], Annotated[float, Field(ge=-1e9, le=1e9)]]
InnerSteps = Annotated[int, Field(ge=0, le=100_000)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""Python waits at most 292 years, 9.2e9 seconds."""
