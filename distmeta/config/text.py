"""YAML and JSON as plain values: no Python objects, no repeated keys, and a bound on what a document may hold.

Numbers are those of YAML 1.2: `1e-3` is a number, and `1:30` and `2001-12-14` are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import yaml
from typing_extensions import override
from yaml.scanner import ScannerError

from distmeta.core.errors import UserError

MAX_CHARACTERS = 1 << 20
"""Limit of a document, also when every alias is replaced by what it refers to."""
MAX_DEPTH = 100
"""Limit of values within values: by it, not by how deep in calls the reader happens to be."""
_TAG = "tag:yaml.org,2002:"
_TAGS = ("str", "int", "float")
_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|[-+]?\d+[eE][-+]?\d+$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][\d_]*|0x[\da-fA-F_]+)$", re.ASCII)


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML.

    Args:
        text: The document.
        source: Where it comes from, for messages.

    Raises:
        UserError: Not YAML, a tag or a repeated key, or too large.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _require_small(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise UserError(f"not valid YAML: {error.problem}{line}", where=source, allowed="plain YAML values") from error
    except RecursionError as error:
        raise UserError("not valid YAML: nested too deeply", where=source) from error
    except IndexError as error:  # PyYAML looks at the first digit
        raise UserError("not valid YAML: a number without digits", where=source) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"not valid YAML: {error}", where=source) from error


def parse_json(text: str, source: str) -> Any:
    """Read JSON; the arguments and errors are those of `parse_yaml`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_unique((key for key, _ in pairs), None)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise UserError("not valid JSON: nested too deeply", where=source) from error
    except ValueError as error:
        raise UserError(f"not valid JSON: {error}", where=source) from error


def dump_yaml(fields: Mapping[str, object]) -> str:
    """Write what `parse_yaml` reads back to equal values."""
    return yaml.dump(dict(fields), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML without Python objects and without silently repeated keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class declares it
        first: [(tag, pattern) for tag, pattern in rules if tag.removeprefix(_TAG) not in ("int", "float", "timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    @override
    def fetch_tag(self) -> None:
        mark = self.get_mark()
        super().fetch_tag()
        handle, name = self.tokens[-1].value
        if handle != "!!" or name not in _TAGS:
            raise ScannerError(None, None, f"the tag '{handle or ''}{name}'", mark)

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        _require_unique((key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)), node.start_mark.line)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""

    @override
    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full."""
        return True


_Loader.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
for _class in (_Loader, _Dumper):  # YAML 1.1, PyYAML's, takes 1e-3 for text
    _class.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))


def _require_small(root: yaml.Node | None) -> None:
    """Check what a document holds when every alias is replaced, before it is replaced."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise ValueError("an alias refers to a value that contains it")
            return known
        sizes[id(node)] = None
        characters = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        total = 1 + characters + sum(size(child) for child in _children(node))
        sizes[id(node)] = total
        return total

    if root is not None and size(root) > MAX_CHARACTERS:
        raise ValueError(f"its aliases stand for more than {MAX_CHARACTERS} characters")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _require_unique(keys: Iterable[str], line: int | None) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            place = "" if line is None else f" in the mapping that starts on line {line + 1}"
            raise ValueError(f"the field '{key}' is given twice{place}")
        seen.add(key)
