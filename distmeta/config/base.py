"""Base class of the configuration sections, inspection of their type annotations, and readable validation errors.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import override

from distmeta.core.errors import UserError, nearest

_MAX_VALUE_LENGTH = 60


class Frozen(BaseModel):
    """A configuration section: immutable; unknown fields and invalid values are refused when it is created."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def to_user_error(
    error: ValidationError, root: type[BaseModel] | None = None, *, source: str | None = None
) -> UserError:
    """Convert a pydantic error to a one-line error: what is wrong, where, what is allowed.

    Only one problem of the error is reported: an unknown field if there is one, because other problems may follow from
    it, else the first.

    Args:
        error: The validation error.
        root: The class that was validated; None looks up the section that the error names.
        source: Where the values come from: a file, an option.
    """
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    root = root or _section_by_name(error.title)
    path, annotation, section = _locate(root, problem["loc"])
    kind, context, value = problem["type"], problem.get("ctx", {}), problem.get("input")
    allowed: str | None = None
    if kind == "extra_forbidden":
        what = f"unknown field {shortened(path[-1])}"
        allowed = nearest(path[-1], section.model_fields) if section else None
    elif kind == "union_tag_invalid":
        tag = str(context["tag"])
        field = str(context["discriminator"]).strip("'").removesuffix("()")  # of a function, its name
        what = f"unknown {field} {shortened(tag)}"
        allowed = nearest(tag[:_MAX_VALUE_LENGTH], _tags(annotation))
    elif kind == "union_tag_not_found":
        what = f"the field {context['discriminator']} is missing"
        allowed = ", ".join(_tags(annotation))
    elif kind == "literal_error":
        what, allowed = f"unknown value {shortened(value)}", nearest(shortened(value).strip("'"), _literals(annotation))
    elif kind == "missing":
        what = "a value is required"
    elif kind == "value_error":
        what = str(context["error"])
    else:
        what = f"{shortened(value)} is not valid"
        same_path = [each for each in problems if _locate(root, each["loc"])[0] == path]
        allowed = " or ".join(dict.fromkeys(_expected(each) for each in same_path))
        allowed += " or null" if _allows(annotation, types.NoneType) else ""
    where = ".".join(path)
    if root is not None and root.__name__ != "RunConfig":
        where = f"{root.__name__}.{where}" if where else root.__name__
    return UserError(what, where=": ".join(part for part in (source, where) if part) or None, allowed=allowed)


def allowed_types(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None: several for a union, otherwise one."""
    if get_origin(annotation) is Annotated:
        return allowed_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in allowed_types(argument)]
    return [] if annotation in (None, types.NoneType) else [annotation]


def annotation_of(parent: Any, name: str | int) -> Any:
    """The annotation of a field of a section, a value of a dict or an element of a list; None if there is no such."""
    if is_section(parent):
        return parent.model_fields[name].annotation if name in parent.model_fields else None
    origin, args = get_origin(parent), get_args(parent)
    if origin is dict:
        return args[1]
    if origin in (tuple, list) and is_position(str(name)):
        return args[0] if origin is list or args[-1] is Ellipsis else args[min(int(name), len(args) - 1)]
    return None


def is_position(name: str) -> bool:
    """Whether a name is the position of an element in a list."""
    return name.isascii() and name.isdigit() and len(name) < 10


def is_section(annotation: Any) -> bool:
    """Whether an annotation is a configuration class."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def discriminator_of(section: type[BaseModel]) -> tuple[str, str] | None:
    """Name and value of the field that selects a class in a union: `("kind", "mlp")`; None if there is none."""
    for name, field in section.model_fields.items():
        if get_origin(field.annotation) is Literal and get_args(field.annotation) == (field.default,):
            return name, str(field.default)
    return None


def section_for(annotation: Any, value: Mapping[str, Any]) -> type[BaseModel] | None:
    """The configuration class of `annotation` that `value` selects by its discriminator; None if it selects none."""
    sections: list[type[BaseModel]] = [each for each in allowed_types(annotation) if is_section(each)]
    if len(sections) < 2:
        return sections[0] if sections else None
    for section in sections:
        name, tag = discriminator_of(section) or ("", "")
        if value.get(name) == tag:
            return section
    return None


def _locate(root: type[BaseModel] | None, loc: Sequence[str | int]) -> tuple[list[str], Any, type[BaseModel] | None]:
    """Resolve pydantic's `loc` to a path of fields, the annotation of the last one, and the section that contains it.

    Between the fields, `loc` also names the member of a union that was tried (a tag or a type). The path omits it.
    """
    path: list[str] = []
    annotation: Any = root
    section: type[BaseModel] | None = None
    for part in loc:
        options = allowed_types(annotation)
        if len(options) > 1:
            annotation = next((each for each in options if part in _tags(each)), None)
            continue
        section = options[0] if options and is_section(options[0]) else None
        annotation = annotation_of(options[0], part) if options else None
        path.append(str(part))
    return path, annotation, section


def _tags(annotation: Any) -> list[str]:
    """Values of the discriminator that select the classes of a union."""
    discriminators = [discriminator_of(each) for each in allowed_types(annotation) if is_section(each)]
    return [tag for _, tag in filter(None, discriminators)]


def _literals(annotation: Any) -> Iterable[str]:
    return [str(value) for each in allowed_types(annotation) for value in get_args(each)]


def _allows(annotation: Any, kind: type) -> bool:
    return kind in get_args(annotation)


def _expected(problem: Any) -> str:
    """What pydantic expected, in the words of YAML."""
    if problem["type"] in ("too_short", "too_long"):
        context = problem["ctx"]
        least, most = context.get("min_length"), context.get("max_length")
        return f"{least} or more elements" if most is None else f"at most {most} elements"
    if problem["type"] in ("string_too_short", "string_too_long"):
        return str(problem["msg"]).removeprefix("String should have ")
    if problem["type"] == "int_parsing_size":
        return "an integer"
    if problem["type"] == "invalid_key":
        return "names of fields"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a mapping of fields"
    expected = str(problem["msg"]).removeprefix("Input should be ").split(", unable")[0].split(", got")[0]
    return expected.replace("a valid tuple", "a list").replace("a valid ", "a ").replace("a integer", "an integer")


class _Repr(reprlib.Repr):
    """`repr` whose work is bounded, whatever is nested in a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 10
        self.maxstring = self.maxother = 4 * _MAX_VALUE_LENGTH

    @override
    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write out an integer of thousands of digits."""
        return repr(x) if x.bit_length() < 512 else f"an integer of {x.bit_length()} bits"


def shortened(value: object) -> str:
    """A value as it is shown in a message."""
    text = _Repr().repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def _section_by_name(name: str) -> type[BaseModel] | None:
    stack = [Frozen]
    while stack:
        section = stack.pop()
        if section.__name__ == name:
            return section
        stack += section.__subclasses__()
    return None
