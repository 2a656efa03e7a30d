"""A configuration as the flat, short strings that tracking stores take for parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from distmeta.tracking.uris import mask_uri

MAX_VALUE_LENGTH = 6000


def flatten(config: Mapping[str, object]) -> dict[str, str]:
    """Turn a JSON object into `dotted.name -> text`.

    Lists of sections get their index as a name (`phases.0.lr`); lists of plain values stay one value. Secrets in URIs
    are masked, and texts longer than the store takes are cut.
    """
    return {name: mask_uri(text)[:MAX_VALUE_LENGTH] for name, text in _leaves("", config)}


def masked(value: object) -> object:
    """The same JSON value with the secrets in its URIs masked."""
    if isinstance(value, str):
        return mask_uri(value)
    if isinstance(value, Mapping):
        return {str(key): masked(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [masked(item) for item in value]
    return value


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(f"{prefix}.{index}", item)
    elif prefix:
        yield prefix, value if isinstance(value, str) else json.dumps(value)
