"""Flat parameters, and masked secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distmeta.tracking.flatten import MAX_VALUE_LENGTH, flatten, mask_file, masked, masked_text


def test_nested_objects_become_dotted_names() -> None:
    config = {"name": "run", "outer": {"lr": 0.001, "nesterov": True, "clip": None}, "widths": [40, 40]}
    assert flatten(config) == {
        "name": "run",
        "outer.lr": "0.001",
        "outer.nesterov": "true",
        "outer.clip": "null",
        "widths": "[40, 40]",
    }


def test_lists_of_objects_are_flattened_by_index() -> None:
    assert flatten({"phases": [{"lr": 0.1}, {"lr": 0.2}]}) == {"phases.0.lr": "0.1", "phases.1.lr": "0.2"}


def test_empty_objects_and_lists_are_kept() -> None:
    assert flatten({"a": {}, "b": []}) == {"a": "{}", "b": "[]"}


def test_long_values_are_cut_and_secrets_masked() -> None:
    flat = flatten({"long": "x" * 10_000, "uri": "http://me:secret@host"})
    assert flat["long"] == "x" * MAX_VALUE_LENGTH
    assert flat["uri"] == "http://me:***@host"


def test_masking_changes_only_secrets_and_copies() -> None:
    config = {"a": [1, None, {"uri": "http://me:secret@host"}], "b": 0.5}
    assert masked(config) == {"a": [1, None, {"uri": "http://me:***@host"}], "b": 0.5}
    assert config["a"] == [1, None, {"uri": "http://me:secret@host"}]


@pytest.mark.parametrize(
    "name", ["password", "db_password", "Secret", "auth.token", "api_key", "aws_secret_access_key", "credentials"]
)
def test_texts_are_masked_if_their_key_names_a_secret(name: str) -> None:
    assert masked({"a": [{name: "hidden"}]}) == {"a": [{name: "***"}]}
    assert flatten({"options": {name: "hidden"}}) == {f"options.{name}": "***"}


def test_other_keys_and_values_are_not_masked() -> None:
    config = {"tokenizer": "bert", "num_tokens": 5, "key": "x", "keys": ["a"], "token": None, "password": ""}
    assert masked(config) == config


def test_json_stays_json_when_its_secrets_are_masked() -> None:
    line = '{"a":"http://me:secret@host","b":"x@y"}'
    assert masked_text(f"{line}\n{line}\n", "x.jsonl").count("x@y") == 2
    assert json.loads(masked_text(line, "x.json")) == {"a": "http://me:***@host", "b": "x@y"}
    assert masked_text('{"a": "http://me:secret@host"', "x.json") == '{"a": "http://me:***@host"'
    assert masked_text("http://me:secret@host", "x.txt") == "http://me:***@host"


def test_only_text_files_are_masked(tmp_path: Path) -> None:
    content = b"http://me:secret@host \xff"
    for name, expected in (("a.txt", b"http://me:***@host \xff"), ("a.png", content), ("a.safetensors", content)):
        (tmp_path / name).write_bytes(content)
        mask_file(tmp_path / name)
        assert (tmp_path / name).read_bytes() == expected
    mask_file(tmp_path)
