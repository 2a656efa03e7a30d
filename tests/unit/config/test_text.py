"""YAML and JSON: plain values only, and nothing that grows beyond bounds."""

from __future__ import annotations

import json

import pytest

from distmeta.config.text import dump_yaml, parse_json, parse_yaml
from distmeta.core.errors import UserError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{i + 1}: &m{i + 1} {{<<: [*m{i}, *m{i}]}}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("017", 15),
        ("-7", -7),
        (".inf", float("inf")),
        ("2001-12-14", "2001-12-14"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0o17", "0o17"),
        ("1e", "1e"),
        ("on", True),
        ("~", None),
        ("", None),
        ("!!str 2024", "2024"),
        ("!!float 3", 3.0),
        ("[&a 1, *a]", [1, 1]),
        ("{<<: {x: 1}, y: 2}", {"x": 1, "y": 2}),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse_yaml(text, "--set") == value
    assert parse_yaml(dump_yaml({"x": value}), "--set") == {"x": value}


@pytest.mark.thorough
@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "its aliases stand for more than 1048576 characters"),
        (MERGES, "its aliases stand for more than 1048576 characters"),
        (f"x: &x '{'y' * 100_000}'\nz: [{', '.join(['*x'] * 100)}]", "its aliases stand for more than"),
        ("&a [*a]", "an alias refers to a value that contains it"),
        ("&a {b: *a}", "an alias refers to a value that contains it"),
        ("[" * 20_000, "nested too deeply"),
        ("[" * 2_000 + "]" * 2_000, "nested too deeply"),
        ("\n".join(f"{' ' * depth}a:" for depth in range(3000)), "nested too deeply"),
        ("!!python/name:os.system", "the tag '!!python/name:os.system'"),
        ("!!python/object/apply:os.getcwd []", "the tag '!!python/object/apply:os.getcwd'"),
        ("!!binary aGVsbG8=", "the tag '!!binary'"),
        ("!!timestamp now", "the tag '!!timestamp'"),
        ("!!bool maybe", "the tag '!!bool'"),
        ("!!set {a, b}", "the tag '!!set'"),
        ("!<tag:yaml.org,2002:bool> maybe", "the tag 'tag:yaml.org,2002:bool'"),
        ("!own {}", "the tag '!own'"),
        ("! a", "the tag '!'"),
        ("%TAG !! tag:example.org:\n---\n!!str x", "could not determine a constructor"),
        ("!!int many", "invalid literal"),
        ("!!float", "a number without digits"),
        ("!!int '-'", "a number without digits"),
        ("9" * 5000, "Exceeds the limit"),
        ("=", "could not determine a constructor"),
        ("[a]: 1", "unhashable"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: 1\na: 2", "the field 'a' is given twice"),
        ("*x", "undefined alias"),
        ("a\0b", "special characters"),
        ("a\udcffb", "special characters"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^a\.yaml: not valid YAML: ") as caught:
        parse_yaml(text, "a.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"a": 1, "a": 2}', "the field 'a' is given twice"),
        ("{'a': 1}", "property name"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^a\.json: not valid JSON: ") as caught:
        parse_json(text, "a.json")
    assert message in str(caught.value)


def test_json() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "é"}]}
    assert parse_json(json.dumps(value), "a.json") == value
