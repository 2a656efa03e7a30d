"""MkDocs hook: the tables of the configuration page, made from the configuration classes and their docstrings."""

from __future__ import annotations

import inspect
import json
import logging
import re
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distmeta.config import RunConfig

_LOG = logging.getLogger("mkdocs.hooks.configuration")
_MARKER = "<!-- tables of the configuration -->"
_ATTRIBUTE = re.compile(r"    (\w+): (.*)")
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}

Section = type[BaseModel]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables in the place of the marker."""
    return markdown.replace(_MARKER, "\n".join(_run())) if _MARKER in markdown else markdown


def _run() -> Iterator[str]:
    """The fields of a run, then its sections."""
    yield from _table(RunConfig, "", "The run", 2)
    for name, field in RunConfig.model_fields.items():
        yield from _sections(name, field.annotation, 2, set())


def _sections(path: str, annotation: Any, level: int, done: set[Section]) -> Iterator[str]:
    """The classes that a field allows, each followed by the sections inside it."""
    classes = [section for section in _classes(annotation) if section not in done]
    done.update(classes)
    if len(classes) > 1:
        yield f"\n{'#' * level} `{path}`\n\nOne of {len(classes)} classes.\n"
    for section in classes:
        depth, title = (level, f"`{path}`") if len(classes) == 1 else (level + 1, f"`{path}`, `{_tag(section)}`")
        yield from _table(section, f"{path}.", title, depth)
        for name, field in section.model_fields.items():
            yield from _sections(f"{path}.{name}", field.annotation, depth + 1, done)


def _table(section: Section, prefix: str, title: str, level: int) -> Iterator[str]:
    text = (inspect.getdoc(section) or "").split("\nAttributes:")[0]
    yield f"\n{'#' * level} {title}\n\n{' '.join(text.split())} Class `{section.__name__}`.\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    descriptions = _descriptions(section)
    for name, field in section.model_fields.items():
        description = descriptions.get(name, "")
        if _is_tag(field):
            description = "Chooses the class."
        elif _classes(field.annotation):
            description = description or f"See [`{prefix}{name}`](#{(prefix + name).replace('.', '')})."
        elif not description:
            _LOG.warning("configuration.md: %s.%s has no description", section.__name__, name)
        yield f"| `{name}` | {_type(field.annotation, field.metadata)} | {_default(field)} | {description} |"


def _descriptions(section: Section) -> dict[str, str]:
    """What the docstrings of a class and of its bases say about each field."""
    descriptions: dict[str, str] = {}
    for each in reversed(section.__mro__):
        name = ""
        for line in inspect.cleandoc(each.__doc__ or "").partition("\nAttributes:\n")[2].splitlines():
            if match := _ATTRIBUTE.fullmatch(line):
                name, descriptions[match[1]] = match[1], match[2]
            elif name:
                descriptions[name] += f" {line.strip()}"
    return descriptions


def _classes(annotation: Any) -> list[Section]:
    """The configuration classes that an annotation allows, in its order."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [section for part in get_args(annotation) for section in _classes(part)]


def _is_tag(field: FieldInfo) -> bool:
    """Whether a field chooses a class of a union: its only value is its default."""
    return get_origin(field.annotation) is Literal and get_args(field.annotation) == (field.default,)


def _tag(section: Section) -> str:
    return next(f"{name}: {field.default}" for name, field in section.model_fields.items() if _is_tag(field))


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type as people who write YAML know it, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        metadata = list(metadata)
        return " or ".join(dict.fromkeys(_type(each, () if each is types.NoneType else metadata) for each in arguments))
    constraints = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    bounds = [
        f"{sign} {getattr(each, name)}" for each in constraints for name, sign in _SIGNS.items() if hasattr(each, name)
    ]
    return " ".join([_type_name(annotation, origin, arguments), ", ".join(bounds)]).strip()


def _type_name(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
    if _classes(annotation):
        return "list of sections" if origin is tuple else "section"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}" if arguments[-1] is Ellipsis else f"{len(arguments)} numbers"
    if origin is dict:
        return "mapping"
    return "null" if annotation is types.NoneType else str(annotation.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if _classes(field.annotation) and field.default is not None:
        return "its defaults"
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"
