"""The base of every configuration class: frozen, closed to unknown names, picklable, free of torch and Ray."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distmeta.errors import UserError, nearest


class Frozen(BaseModel):
    """A configuration section. Unknown fields and values out of range are refused when it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def explain(error: ValidationError, root: type[BaseModel], *, source: str | None = None) -> UserError:
    """Turn the first problem that pydantic found into one line: what, where, what is allowed."""
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path) or root.__name__
    allowed: str | None = None
    kind, context = problem["type"], problem.get("ctx", {})
    value = problem.get("input")
    if kind == "extra_forbidden":
        section = _section(root, path[:-1])
        what = f"unknown field '{path[-1]}'"
        allowed = nearest(path[-1], section.model_fields) if section else None
    elif kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
        what, allowed = f"unknown {context['discriminator']} '{context['tag']}'", nearest(str(context["tag"]), tags)
    elif kind == "union_tag_not_found":
        what = f"the field {context['discriminator']} is missing"
    elif kind == "literal_error":
        options = [part.strip().strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        what, allowed = f"unknown value {value!r}", nearest(str(value), options)
    elif kind == "missing":
        what = "a value is required"
    elif kind == "value_error":
        what = str(context["error"])
    else:
        what = f"{value!r} is not valid"
        allowed = problem["msg"].removeprefix("Input should be ")
    return UserError(what, where=f"{source}: {where}" if source else where, allowed=allowed)


def _section(root: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The class that holds the field at `path`; discriminated unions are followed by their tag, which pydantic lists."""
    current: Any = root
    for part in path:
        options = _classes(current.model_fields[part].annotation) if part in current.model_fields else []
        if len(options) == 1:
            current = options[0]
        elif options:
            return _tagged(options, path[path.index(part) + 1 :])
        elif not part.isdigit():
            return None
    return current  # type: ignore[no-any-return]


def _tagged(options: list[type[BaseModel]], rest: list[str]) -> type[BaseModel] | None:
    tag = next((part for part in rest if not part.isdigit()), None)
    for option in options:
        if any(field.default == tag for field in option.model_fields.values() if isinstance(field.default, str)):
            return _section(option, rest[rest.index(tag) + 1 :]) if tag else option
    return None


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes that an annotation mentions, looking into unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        found += _classes(part)
    return found
