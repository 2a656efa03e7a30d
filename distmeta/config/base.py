"""The base of every configuration class: frozen, closed to unknown names, picklable, free of torch and Ray.

Also the way around in those classes: which fields a path goes through (`members`, `child`), and what to tell a person
about a value that does not fit (`explain`).
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from distmeta.core.errors import UserError, nearest

_LONGEST_VALUE = 60


class Frozen(BaseModel):
    """A configuration section. Unknown fields and values out of range are refused when it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def explain(error: ValidationError, root: type[BaseModel] | None = None, *, source: str | None = None) -> UserError:
    """Turn what pydantic found into one line: what, where, what is allowed.

    Args:
        error: What pydantic raised; its first problem is told, an unknown field before what may follow from it.
        root: The class that was being made; None looks for the section that the error names.
        source: Where the values came from: a file, an option.
    """
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    root = root or _section_named(error.title)
    path, annotation, section = _locate(root, problem["loc"])
    kind, context, value = problem["type"], problem.get("ctx", {}), problem.get("input")
    allowed: str | None = None
    if kind == "extra_forbidden":
        what = f"unknown field '{path[-1]}'"
        allowed = nearest(path[-1], section.model_fields) if section else None
    elif kind == "union_tag_invalid":
        what = f"unknown {str(context['discriminator']).strip(chr(39))} '{context['tag']}'"
        allowed = nearest(str(context["tag"]), _tags(annotation))
    elif kind == "union_tag_not_found":
        what = f"the field {context['discriminator']} is missing"
        allowed = ", ".join(_tags(annotation))
    elif kind == "literal_error":
        what, allowed = f"unknown value {_shown(value)}", nearest(str(value), _literals(annotation))
    elif kind == "missing":
        what = "a value is required"
    elif kind == "value_error":
        what = str(context["error"])
    else:
        what = f"{_shown(value)} is not valid"
        same_place = [each for each in problems if _locate(root, each["loc"])[0] == path]
        allowed = " or ".join(dict.fromkeys(_wanted(each) for each in same_place))
        allowed += " or null" if _accepts(annotation, types.NoneType) else ""
    where = ".".join(path)
    if root is not None and root.__name__ != "RunConfig":
        where = f"{root.__name__}.{where}" if where else root.__name__
    return UserError(what, where=": ".join(part for part in (source, where) if part) or None, allowed=allowed)


def members(annotation: Any) -> list[Any]:
    """The types that an annotation allows besides None: several for a union, otherwise one."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [] if annotation in (None, types.NoneType) else [annotation]


def child(member: Any, part: str | int) -> Any:
    """The annotation of what `part` (a field, a key, a position) selects in a type; None if there is no such thing."""
    if is_section(member):
        return member.model_fields[part].annotation if part in member.model_fields else None
    origin, args = get_origin(member), get_args(member)
    if origin is dict:
        return args[1]
    if origin in (tuple, list) and str(part).isdigit():
        return args[0] if origin is list or args[-1] is Ellipsis else args[min(int(part), len(args) - 1)]
    return None


def is_section(member: Any) -> bool:
    """Whether a type is a configuration class."""
    return isinstance(member, type) and issubclass(member, BaseModel)


def tag_of(section: type[BaseModel]) -> tuple[str, str] | None:
    """Name and value of the field that tells a class from the others of its union: `("kind", "mlp")`."""
    for name, field in section.model_fields.items():
        if get_origin(field.annotation) is Literal and get_args(field.annotation) == (field.default,):
            return name, str(field.default)
    return None


def section_of(annotation: Any, value: Mapping[str, Any]) -> type[BaseModel] | None:
    """The configuration class among those of `annotation` that `value` is for."""
    sections: list[type[BaseModel]] = [member for member in members(annotation) if is_section(member)]
    if len(sections) < 2:
        return sections[0] if sections else None
    for section in sections:
        name, tag = tag_of(section) or ("", "")
        if value.get(name) == tag:
            return section
    return None


def _locate(root: type[BaseModel] | None, loc: Sequence[str | int]) -> tuple[list[str], Any, type[BaseModel] | None]:
    """Follow pydantic's `loc`: the path as a person writes it, what is allowed there, and the class around it.

    Between the fields, `loc` names which member of a union was tried (a tag or a type); these parts are left out.
    """
    path: list[str] = []
    annotation: Any = root
    section: type[BaseModel] | None = None
    for part in loc:
        options = members(annotation)
        if len(options) > 1:
            annotation = next((each for each in options if part in _tags(each)), None)
            continue
        section = options[0] if options and is_section(options[0]) else None
        annotation = child(options[0], part) if options else None
        path.append(str(part))
    return path, annotation, section


def _tags(annotation: Any) -> list[str]:
    found = [tag_of(member) for member in members(annotation) if is_section(member)]
    return [tag for _, tag in filter(None, found)]


def _literals(annotation: Any) -> Iterable[str]:
    return [str(value) for member in members(annotation) for value in get_args(member)]


def _accepts(annotation: Any, wanted: type) -> bool:
    return wanted in get_args(annotation)


def _wanted(problem: Any) -> str:
    """What pydantic would have taken, in words for people who write YAML."""
    if problem["type"] == "too_short":
        return f"at least {problem['ctx']['min_length']} of them"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a mapping of fields"
    wanted = str(problem["msg"]).removeprefix("Input should be ").split(", unable")[0].split(", got")[0]
    return wanted.replace("a valid tuple", "a list").replace("a valid ", "a ").replace("a integer", "an integer")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _section_named(title: str) -> type[BaseModel] | None:
    waiting = [Frozen]
    while waiting:
        current = waiting.pop()
        if current.__name__ == title:
            return current
        waiting += current.__subclasses__()
    return None
