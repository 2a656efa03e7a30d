"""Fields that all tasks of texts have."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from distmeta.config.base import shortened
from distmeta.config.bounds import Length, Text

BUCKETS = (16, 24, 32, 48, 64)


def _holds_a_text(template: str) -> str:
    if template.count("{}") != 1 or template != template.strip():
        raise ValueError(
            f"{shortened(template)} is no template; allowed: a text with '{{}}' once, no blank at its ends"
        )
    return template


def _ascends(buckets: tuple[int, ...]) -> tuple[int, ...]:
    if any(left >= right for left, right in pairwise(buckets)):
        raise ValueError(f"{list(buckets)} does not ascend; allowed: each bucket longer than the one before")
    return buckets


Template = Annotated[Text, AfterValidator(_holds_a_text)]
Buckets = Annotated[tuple[Length, ...], Field(min_length=1, max_length=64), AfterValidator(_ascends)]
