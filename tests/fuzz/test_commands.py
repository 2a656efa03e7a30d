"""Command lines: every command and option with junk, near-valid and boundary values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distmeta.cli import ui
from distmeta.cli.app import build_app
from distmeta.core.errors import UserError

from .conftest import Places
from .values import INTEGERS, ODD_TEXTS, possible, texts


@dataclass(frozen=True)
class Command:
    """A command: its words, and its parameters as click describes them."""

    words: tuple[str, ...]
    parameters: tuple[Any, ...]


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[Command]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield Command((*words, name), tuple(command.params))


COMMANDS = [each for each in _commands(typer.main.get_command(build_app())) if each.words != ("bench",)]
CONNECTING = ("submit", "jobs", "fetch", "ui")

# Files of a place, see `_fill`; names that there are not; and places where nothing can be written.
FILES = (
    "waves.yaml",
    "waves.yaml:f",
    "runs",
    "runs/waves",
    "runs/waves/step-00000002",
    "pets",
    "pets/cat",
    "pets/cat/0.png",
    "words.csv",
    "empty",
    "empty/new",
    "link",
    "loop",
    "none",
    "none/below",
    "run.toml",
    "job.py",
    "job.py:config",
    "job.py:none",
    "/dev/null",
    "/dev/null/x",
    "/proc/self/mem",
    "memory://runs",
    "http://127.0.0.1:9/runs",
    "nowhere://runs",
)
NEAR = {
    "address": ("http://127.0.0.1:9", "http://[::1", "ray://x", "127.0.0.1", "auto"),
    "env": ("A=1", "A", "=1", "A B=1"),
    "fractions": ("1,0,0", "0.5,0.5", "nan,1,0", "1e308,-1e308,1", "0.1,0.1,0.8", ",,"),
    "host": ("", "127.0.0.1", "999.1.1.1", "::1", "a b"),
    "job": ("raysubmit_x",),
    "kind": ("images", "table", "omniglot", "cifar_fs", "fc100", "imags"),
    "label_column": ("label", "text", "Label"),
    "name": ("omniglot", "banking77", "a", ".a", "a/b", "-a", "x" * 129),
    "overrides": ("train.steps=3", "tasks.shots=0", "model=1", "name=x", "tasks.source=glyphs", "runtime=null"),
    "protocol": ("inductive", "transductive", "Inductive"),
    "split": ("train", "val", "tests"),
    "text_column": ("text", "label", "Text"),
    "uri": (
        "sqlite:///none.db",
        "sqlite:///words.csv",
        "sqlite://",
        "sqlite:////dev/null",
        "http://127.0.0.1:9",
        "postgresql://me:secret@127.0.0.1:9/runs",
        "mysql+pymysql://127.0.0.1:port/runs",
        "x:y",
    ),
    "which": ("latest", "best", "previous", "last"),
}
NUMBERS = ("min_examples", "per_class", "port", "seed", "size", "tasks")
_BIG = [each for each in INTEGERS if not 3 < each < 2**63]
_numbers = st.sampled_from([*map(str, _BIG), "2.0", "1e1", "0x2", " 2", "+2", "--2", "٢"])
_junk = st.one_of(texts, st.sampled_from([each for each in ODD_TEXTS if len(each) < 1000])).map(possible)


@st.composite
def _value(draw: st.DrawFn, parameter: Any) -> str:
    """A value for a parameter; nothing that a command could work on for long, and no path that leaves the place."""
    choices = [_junk]
    if parameter.name in NUMBERS:
        choices = [_numbers, _numbers, _junk]
    elif parameter.name in NEAR:
        choices = [st.sampled_from(NEAR[parameter.name])] * 3 + [_junk]
        if parameter.name == "job":
            choices += [st.sampled_from(FILES)] * 3
    else:
        choices = [st.sampled_from(FILES)] * 3 + [_junk]
    return draw(st.one_of(choices))


@st.composite
def _arguments(draw: st.DrawFn, command: Command) -> list[str]:
    arguments = list(command.words)
    for parameter in command.parameters:
        is_option = any(name.startswith("-") for name in parameter.opts)
        if parameter.name == "help" or draw(st.integers(0, 9)) < (6 if is_option and not parameter.required else 1):
            continue
        if is_option:
            arguments.append(draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts])))
        if not getattr(parameter, "is_flag", False):
            arguments.append(draw(_value(parameter)))
    if draw(st.integers(0, 9)) == 0:
        arguments.insert(draw(st.integers(0, len(arguments))), draw(_junk))
    if command.words == ("train",):
        arguments.append("--dry-run")
    if command.words == ("evaluate",) and "--tasks" not in arguments:
        arguments += ["--tasks", "2"]
    return arguments


def _fill(folder: Path, trained: Path) -> None:
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("pets")
    (folder / "loop").symlink_to("loop")
    (folder / "words.csv").write_text("text,label\na,x\nb,y\n")
    (folder / "run.toml").write_text("name = 'x'")
    (folder / "job.py").write_text("def config(): return 1\n")
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(folder / "pets" / name / "0.png")


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server would be served until it is interrupted."""

    def refuse(*_: object) -> None:
        raise UserError("no server here")

    monkeypatch.setattr(ui, "MlflowServer", refuse)


def _run(places: Places, trained: Path, arguments: list[str]) -> None:
    with places() as place:
        _fill(place.work, trained)
        connects = any(word in CONNECTING for word in arguments[:2]) or any("://" in each for each in arguments)
        outcome = place.run(*arguments, connects=connects)
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        if outcome.code == 0 and "--json" in options and "--help" not in options and "-h" not in options:
            json.loads(outcome.stdout.splitlines()[-1])


@settings(max_examples=4 * settings.default.max_examples)
@given(arguments=st.sampled_from(COMMANDS).flatmap(_arguments))
def test_commands(places: Places, trained: Path, arguments: list[str]) -> None:
    _run(places, trained, arguments)


_WORDS = sorted({word for command in COMMANDS for word in command.words} | {"--help", "-h", "--version", "--json"})


@given(arguments=st.lists(st.one_of(st.sampled_from(_WORDS), _junk, st.sampled_from(FILES)), max_size=4))
def test_words(places: Places, trained: Path, arguments: list[str]) -> None:
    if "train" in arguments:
        arguments.append("--dry-run")
    if not {"evaluate", "bench", "adapt"} & set(arguments):
        _run(places, trained, arguments)


@given(word=_junk)
def test_bench(places: Places, trained: Path, word: str) -> None:
    _run(places, trained, ["bench", f"no-{word}"])
