"""Overrides: `outer.lr=0.003`, `tasks.source=glyphs`, `algorithm.learner.phases.0.steps=5`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from distmeta.config.base import allowed_types, annotation_of, discriminator_of, is_position, is_section, section_for
from distmeta.core.errors import UserError, nearest

_WHERE = "--set"
_EXAMPLE = "field=value, for example --set outer.lr=0.003"


def apply_overrides(
    values: dict[str, Any], overrides: Sequence[str], root: type[BaseModel], parse: Callable[[str], Any]
) -> dict[str, Any]:
    """Change a dumped configuration in place.

    An override that names another class of a union (`tasks.source=glyphs`) comes before the others: the fields that the
    new class has too keep their values, the others get its defaults.

    Args:
        values: The configuration as plain dictionaries and lists.
        overrides: `path=value` each; later ones win.
        root: The class of the whole configuration.
        parse: Turns the text of a value into a value.

    Returns:
        `values`, not yet validated.

    Raises:
        UserError: Not of that form, or the path leads nowhere.
    """
    split = [_split(override) for override in overrides]
    for path, text in sorted(split, key=lambda pair: pair[0][-1] not in _tag_fields(root)):
        _apply(values, root, path, text, parse)
    return values


def _split(override: str) -> tuple[list[str], str]:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"'{override}' is not an override", where=_WHERE, allowed=_EXAMPLE)
    return path, text.strip()


def _apply(values: Any, root: Any, path: list[str], text: str, parse: Callable[[str], Any]) -> None:
    node, annotation = values, root
    for depth, part in enumerate(path[:-1]):
        below = _step(node, annotation, path, depth)
        if isinstance(node, dict) and part not in node:
            so_far = ".".join(path[: depth + 1])
            raise UserError(f"{so_far} has no value yet", where=f"{_WHERE} {'.'.join(path)}", allowed=f"{so_far}=value")
        node, annotation = node[int(part) if isinstance(node, list) else part], below
    below = _step(node, annotation, path, len(path) - 1)
    value = parse(text)
    if str in allowed_types(below) and value is not None and not isinstance(value, str):
        value = text  # `name=2024` is a name
    last = path[-1]
    section = section_for(annotation, node) if isinstance(node, dict) else None
    if section and len(allowed_types(annotation)) > 1 and last == (discriminator_of(section) or ("",))[0]:
        _change_class(node, section_for(annotation, {last: value}))
    node[int(last) if isinstance(node, list) else last] = value


def _step(node: Any, annotation: Any, path: list[str], depth: int) -> Any:
    """The annotation below `path[depth]`, which must exist."""
    part, so_far = path[depth], ".".join(path[:depth])
    where = f"{_WHERE} {'.'.join(path)}"
    if isinstance(node, list):
        if not is_position(part) or int(part) >= len(node):
            positions = f"a position: 0 to {len(node) - 1}" if node else "nothing, the list is empty"
            raise UserError(f"{so_far} has no '{part}'", where=where, allowed=positions)
        return annotation_of(next((each for each in allowed_types(annotation) if not is_section(each)), None), part)
    if not isinstance(node, dict):
        shown = "null" if node is None else repr(node)
        raise UserError(f"{so_far} is {shown} and holds no field '{part}'", where=where, allowed=f"{so_far}=value")
    section = section_for(annotation, node)
    if section is None:  # a free mapping, such as the options of an optimizer
        return annotation_of(next(iter(allowed_types(annotation)), None), part)
    if part not in section.model_fields:
        raise UserError(f"unknown field '{part}'", where=where, allowed=nearest(part, section.model_fields))
    return annotation_of(section, part)


def _change_class(node: dict[str, Any], section: type[BaseModel] | None) -> None:
    """Turn the values of one class of a union into those of another; an unknown one is left to the validation."""
    if section is None:
        return
    kept = {name: value for name, value in node.items() if name in section.model_fields}
    node.clear()
    # Without the fields that have no default: other overrides may give them, and the validation asks for them.
    node.update(section.model_construct().model_dump(mode="json") | kept)


def _tag_fields(annotation: Any) -> set[str]:
    """Names of all fields that choose a class of a union."""
    found: set[str] = set()
    for section in (member for member in allowed_types(annotation) if is_section(member)):
        tag = discriminator_of(section)
        found |= {tag[0]} if tag else set()
        for field in section.model_fields.values():
            found |= _tag_fields(field.annotation)
    return found
