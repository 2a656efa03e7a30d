"""Configurations: odd and near-valid mappings through YAML, JSON and `--set`."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from distmeta.config import RunConfig
from distmeta.config.load import load_config

from .conftest import Places
from .harness import Place, sets
from .values import INTEGERS, as_json, changed, changed_bytes, leaf, near, paths, possible, scalars, texts, trees

_GLYPHS = {"name": "letters", "tasks": {"source": "glyphs", "way": 5, "shots": 2}, "model": {"kind": "conv4"}}
_STORE = {
    "name": "images",
    "tasks": {"source": "images", "store": "x", "split_set": "y"},
    "algorithm": {"learner": {"kind": "prototype"}},
    "outer": {"options": {"betas": [0.9, 0.99], "amsgrad": True}, "staleness": 1},
    "tracking": {"uri_file": "x"},
    "runtime": {"workers": "1..3", "address": "auto"},
}
_SINUSOID = {"name": "waves", "tasks": {"source": "sinusoid"}, "model": {"kind": "mlp", "hidden": [4]}}
BASES: list[dict[str, Any]] = [
    *(RunConfig.model_validate(each).model_dump(mode="json") for each in (_GLYPHS, _STORE, _SINUSOID)),
    _GLYPHS,
]
"""Whole configurations, and a short one."""

_YAML = tuple(
    [
        "&a",
        "*a",
        "!!str",
        "!!float",
        "!!python/name:os.system",
        "!x",
        "<<:",
        "?",
        ":",
        "-",
        "|",
        ">",
        "[",
        "]",
        "{",
        "}",
        ",",
        "#",
        "%",
        "@",
        "`",
        "'",
        '"',
        "---",
        "...",
        "~",
        ".nan",
        ".inf",
    ]
)
_fragments = st.lists(
    st.one_of(st.sampled_from([*_YAML, "\n", "\n  ", "\t", "name: x\n", "tasks:\n  ", "seed: "]), texts), max_size=20
).map(" ".join)


def _check(place: Place, *arguments: str) -> None:
    """Resolve a configuration; one that is printed can be read again, and is the same then."""
    outcome = place.run("train", *arguments, "--dry-run")
    if outcome.code == 0 and "***" not in outcome.stdout:
        (place.work / "again.yaml").write_text(outcome.stdout, encoding="utf-8", errors="surrogatepass")
        again = place.run("train", "again.yaml", "--dry-run")
        assert again.stdout == outcome.stdout


def _file(place: Place, tree: Any, form: str) -> str:
    content = as_json(tree)
    if form == "yaml" and len(content) < 50_000:
        content = yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass")
    (place.work / f"run.{form}").write_bytes(content)
    return f"run.{form}"


@given(tree=st.sampled_from(BASES).flatmap(changed), form=st.sampled_from(["yaml", "json"]))
def test_near_valid_files(places: Places, tree: Any, form: str) -> None:
    with places() as place:
        _check(place, _file(place, tree, form))


@given(
    content=st.one_of(
        st.binary(max_size=60), _fragments.map(lambda text: text.encode(errors="surrogatepass")), trees.map(as_json)
    ),
    data=st.data(),
)
def test_odd_files(places: Places, content: bytes, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        content = data.draw(changed_bytes(yaml.safe_dump(_STORE).encode() + content))
    with places() as place:
        name = f"run.{data.draw(st.sampled_from(['yaml', 'yml', 'json']))}"
        (place.work / name).write_bytes(content)
        _check(place, name)


@st.composite
def _overrides(draw: st.DrawFn, base: dict[str, Any]) -> str:
    path = [str(part) for part in draw(st.sampled_from(list(paths(base))))]
    if draw(st.integers(0, 4)) == 0:
        path[draw(st.integers(0, len(path) - 1))] = draw(texts)
    if draw(st.integers(0, 9)) == 0:
        path.append(draw(texts))
    value = draw(st.one_of(texts, trees.map(lambda tree: as_json(tree).decode()), scalars.map(str), _fragments))
    return possible(f"{'.'.join(path)}{draw(st.sampled_from(['=', '=', '=', ' = ', '', '==']))}{value}")


@given(base=st.sampled_from(BASES), data=st.data())
def test_overrides(places: Places, base: dict[str, Any], data: st.DataObject) -> None:
    changes = data.draw(st.lists(_overrides(base), min_size=1, max_size=3))
    with places() as place:
        _check(place, _file(place, base, "json"), *sets(changes))


# Integers that no bound allows, or so small that a run of them takes milliseconds.
_QUICK = (-1, 0, 1, 2, *(each for each in INTEGERS if each < 0 or each > 10**12))
# "1_000" is read as a number, and a thousand exact inner steps take half a minute.
_no_numbers = texts.filter(lambda text: not any(character.isdecimal() for character in text))


@given(data=st.data())
def test_tiny_runs(places: Places, tiny: RunConfig, data: st.DataObject) -> None:
    """What is valid by itself may still be impossible to start with."""
    tree = tiny.model_dump(mode="json")
    fixed = {("runtime", "executor"), ("tracking", "kind"), ("engine", "strategy"), ("checkpoint", "path")}
    leaves = [path for path in paths(tree) if not isinstance(leaf(tree, path), dict) and path not in fixed]
    chosen = data.draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=2))
    for path in sorted(chosen, key=len, reverse=True):  # what is in a list before the list
        old = leaf(tree, path)
        if isinstance(old, int) and not isinstance(old, bool):
            new = data.draw(st.one_of(st.sampled_from(_QUICK), st.none(), _no_numbers))
        else:
            new = data.draw(near(old))
        leaf(tree, path[:-1])[path[-1]] = new
    with places() as place:
        name = _file(place, tree, "json")
        outcome = place.run("train", name, "--json")
        if outcome.code == 0:
            assert (
                json.loads(outcome.stdout.splitlines()[-1])["steps"] == load_config(str(place.work / name)).train.steps
            )
