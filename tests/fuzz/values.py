"""Odd values, and changes of values, bytes and files."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    "",
    " ",
    "-",
    "--",
    "null",
    "nan",
    "-inf",
    "1e400",
    "0x10",
    "1:30",
    "1_000",
    "2001-12-14",
    "9" * 5000,
    "x" * 300,
    "a\nb",
    "a\x00b",
    "\x1b[31m",
    "é",
    "\u202e",
    "\ud800",
    "😀",
    "[",
    "[[[" * 300,
    "{a: b}",
    "*a",
    "&a [*a]",
    "!!python/object:os.system x",
    "~nobody-here/x",
    "http://[::1",
    "http://me:secret@127.0.0.1:9",
    "odd://x",
    "memory://x",
    "cuda",
    "cuda:99",
    "Adam",
    "module",
    "__class__",
    "1..2",
    "5..1",
    "a=b",
    "%s%n",
    "$HOME",
)
INTEGERS = (-(2**70), -(2**63), -1, 0, 1, 2, 3, 2**31, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 2**70, 10**30)
FLOATS = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-320, 0.5, 1.5, 1e308, -1e308)


def possible(text: str) -> str:
    """A text as an argument of a command: without what a system cannot pass."""
    return text.replace("\x00", "").encode(errors="ignore").decode()


texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=12)
)
integers = st.sampled_from(INTEGERS)
scalars = st.one_of(st.none(), st.booleans(), integers, st.sampled_from(FLOATS), texts)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=6,
)


def paths(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below a tree of dictionaries and lists."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def leaf(tree: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def near(draw: st.DrawFn, value: Any) -> Any:
    """A value of the same type, or another one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(trees)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw(st.one_of(integers, st.sampled_from([value + 1, value - 1, str(value), float(value), [value]])))
    if isinstance(value, float):
        whole = int(value) if math.isfinite(value) else 0
        return draw(st.one_of(st.sampled_from(FLOATS), st.sampled_from([-value, str(value), whole, [value]])))
    if isinstance(value, str):
        return draw(st.one_of(texts, st.sampled_from([value + "x", value[:-1], value.upper(), [value], {value: 1}])))
    if isinstance(value, list):
        return draw(st.sampled_from([[], value * 2, value[:1], {str(i): each for i, each in enumerate(value)}]))
    return draw(trees)


@st.composite
def changed(draw: st.DrawFn, tree: Any, most: int = 3) -> Any:
    """A tree of dictionaries and lists after a few changes."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        places = list(paths(tree))
        if not places:
            return draw(trees)
        path = draw(st.sampled_from(places))
        parent, key = leaf(tree, path[:-1]), path[-1]
        operation = draw(st.sampled_from(["near", "near", "near", "delete", "rename", "add", "move"]))
        if operation == "near":
            parent[key] = draw(near(parent[key]))
        elif operation == "delete":
            del parent[key]
        elif operation == "move":
            parent[key] = copy.deepcopy(leaf(tree, draw(st.sampled_from(places))))
        elif isinstance(parent, list):
            parent.insert(key, draw(scalars))
        elif operation == "rename":
            parent[draw(texts)] = parent.pop(key)
        else:
            parent[draw(texts)] = draw(trees)
    return tree


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """Bytes after a few changes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64]))
        operation = draw(st.sampled_from(["flip", "flip", "cut", "put", "delete", "repeat", "end", "deep"]))
        if operation == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif operation == "cut":
            del data[at:]
        elif operation == "put":
            number = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            data[at : at + 8] = number.to_bytes(8, draw(st.sampled_from(["little", "big"])))[:length]
        elif operation == "delete":
            del data[at : at + length]
        elif operation == "repeat":
            data[at:at] = data[at : at + length]
        elif operation == "deep":
            data[at:at] = draw(st.sampled_from([b"[", b'{"a":', b"- "])) * 50_000
        else:
            data += draw(st.binary(max_size=16))
    return bytes(data)


def as_json(tree: Any) -> bytes:
    """JSON with what Python's reader takes besides: NaN, and halves of surrogate pairs."""
    return json.dumps(tree).encode()
