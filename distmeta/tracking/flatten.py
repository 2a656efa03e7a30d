"""Flatten a configuration to the parameters of a tracking store, and mask secrets in configurations and texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distmeta.tracking.uris import mask_uri

MAX_VALUE_LENGTH = 6000
MAX_TAG_LENGTH = 5000
_SECRET = re.compile(
    r"(?:^|[._-])(?:password|passwd|pwd|secret|token|credentials?|(?:api|access|private|account)_?key)(?:$|[._-])", re.I
)
_ADDRESSES = ("runtime", "tracking", "checkpoint")
"""Sections of a configuration with addresses, which may hold passwords."""
_TEXT_SUFFIXES = (".cfg", ".csv", ".ini", ".json", ".jsonl", ".log", ".md", ".toml", ".txt", ".yaml", ".yml")


def flatten(config: Mapping[str, object]) -> dict[str, str]:
    """Flatten a JSON object to `dotted.name -> text`.

    Lists of objects are flattened by index (`phases.0.lr`); lists of plain values stay one value. Secrets are masked,
    and long texts are cut to the limit of the store.
    """
    return {name: text[:MAX_VALUE_LENGTH] for name, text in _leaves("", masked(config))}


def masked(value: object) -> object:
    """Mask the secrets of a JSON value: those in URIs, and texts whose key names a secret (`password`, ...)."""
    if isinstance(value, str):
        return mask_uri(value)
    if isinstance(value, Mapping):
        return {
            str(key): "***" if isinstance(item, str) and item and _SECRET.search(str(key)) else masked(item)
            for key, item in value.items()
        }
    if isinstance(value, Sequence):
        return [masked(item) for item in value]
    return value


def masked_config(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration whose addresses have their secrets masked; all else is as it is."""
    return {name: masked(value) if name in _ADDRESSES else value for name, value in config.items()}


def masked_text(content: str, name: str) -> str:
    """Mask the secrets of a text.

    Args:
        content: The text.
        name: Name of its file. JSON (`.json`, `.jsonl`) is masked value by value, so that it stays valid.
    """
    if name.endswith(".json"):
        return _masked_json(content, indent=2)
    if name.endswith(".jsonl"):
        return "".join(_masked_json(line, indent=None) + "\n" for line in content.splitlines())
    return mask_uri(content)


def mask_file(path: Path) -> None:
    """Mask the secrets of a text file in place; other files are not changed."""
    if path.is_file() and path.suffix in _TEXT_SUFFIXES:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
        safe = masked_text(content, path.name)
        if safe != content:
            path.write_text(safe, encoding="utf-8", errors="surrogateescape")


def _masked_json(content: str, indent: int | None) -> str:
    try:
        value = json.loads(content)
        safe = masked(value)
        return content if safe == value else json.dumps(safe, indent=indent)
    except ValueError:  # truncated, or not JSON
        return mask_uri(content)


def _leaves(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(f"{prefix}.{index}", item)
    elif prefix:
        yield prefix, value if isinstance(value, str) else json.dumps(value)
