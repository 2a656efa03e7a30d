from __future__ import annotations

from distmeta.tracking.flatten import MAX_VALUE_LENGTH, flatten, masked


def test_sections_become_dotted_names() -> None:
    config = {"name": "run", "outer": {"lr": 0.001, "nesterov": True, "clip": None}, "widths": [40, 40]}
    assert flatten(config) == {
        "name": "run",
        "outer.lr": "0.001",
        "outer.nesterov": "true",
        "outer.clip": "null",
        "widths": "[40, 40]",
    }


def test_lists_of_sections_are_numbered() -> None:
    assert flatten({"phases": [{"lr": 0.1}, {"lr": 0.2}]}) == {"phases.0.lr": "0.1", "phases.1.lr": "0.2"}


def test_empty_sections_and_lists_are_kept() -> None:
    assert flatten({"a": {}, "b": []}) == {"a": "{}", "b": "[]"}


def test_long_values_are_cut_and_secrets_masked() -> None:
    flat = flatten({"long": "x" * 10_000, "uri": "http://me:secret@host"})
    assert flat["long"] == "x" * MAX_VALUE_LENGTH
    assert flat["uri"] == "http://me:***@host"


def test_masked_leaves_everything_else_alone() -> None:
    config = {"a": [1, None, {"uri": "http://me:secret@host"}], "b": 0.5}
    assert masked(config) == {"a": [1, None, {"uri": "http://me:***@host"}], "b": 0.5}
    assert config["a"] == [1, None, {"uri": "http://me:secret@host"}]
