"""A configuration as the flat, short strings that tracking stores take for parameters, and without its secrets."""

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
_TEXTS = (".cfg", ".csv", ".ini", ".log", ".md", ".toml", ".txt")


def flatten(config: Mapping[str, object]) -> dict[str, str]:
    """Turn a JSON object into `dotted.name -> text`.

    Lists of sections get their index as a name (`phases.0.lr`); lists of plain values stay one value. Secrets are
    masked, and texts longer than the store takes are cut.
    """
    return {name: text[:MAX_VALUE_LENGTH] for name, text in _leaves("", masked(config))}


def masked(value: object) -> object:
    """The same JSON value with the secrets in its URIs masked, and texts whose name says that they are one."""
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


def masked_text(content: str, name: str) -> str:
    """The same text with its secrets masked.

    Args:
        content: The text.
        name: Its file's name: JSON (`.json`, `.jsonl`) is masked value by value, so that it stays JSON.
    """
    if name.endswith(".json"):
        return _masked_json(content, indent=2)
    if name.endswith(".jsonl"):
        return "".join(_masked_json(line, indent=None) + "\n" for line in content.splitlines())
    return mask_uri(content)


def mask_file(path: Path) -> None:
    """Mask the secrets in a text file that is ours to change; other files are left alone."""
    if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".yml", *_TEXTS):
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
        plain = masked_text(content, path.name)
        if plain != content:
            path.write_text(plain, encoding="utf-8", errors="surrogateescape")


def _masked_json(content: str, indent: int | None) -> str:
    try:
        value = json.loads(content)
        plain = masked(value)
        return content if plain == value else json.dumps(plain, indent=indent)
    except ValueError:  # cut short, or no JSON at all
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
