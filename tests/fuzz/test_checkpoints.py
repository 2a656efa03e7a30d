"""Checkpoint files: changed values, bytes and headers, files that are cut, swapped or missing."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

import distmeta
from distmeta.core.tensors import digest

from .conftest import Places
from .harness import Place
from .values import as_json, changed, changed_bytes, texts

STATE, META = "state.json", "meta.safetensors"
TENSORS = (META, "averaged.safetensors", "server.safetensors")

Damage = Callable[[Path, st.DataObject], None]


def _values(folder: Path, data: st.DataObject) -> None:
    state = json.loads((folder / STATE).read_text())
    part = data.draw(st.sampled_from(["all", "config", "signature", "server", "progress"]))
    if part == "all":
        state = data.draw(changed(state))
    else:
        state[part] = data.draw(changed(state[part]))
    (folder / STATE).write_bytes(as_json(state))


def _bytes(folder: Path, data: st.DataObject) -> None:
    path = folder / data.draw(st.sampled_from([STATE, *TENSORS]))
    path.write_bytes(data.draw(changed_bytes(path.read_bytes())))


_TYPES = st.sampled_from(
    ["F64", "F32", "F16", "BF16", "I64", "U64", "U16", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "C64", "X"]
)


def _header(folder: Path, data: st.DataObject) -> None:
    """Another header of a safetensors file: `8 bytes length | JSON | tensors`."""
    path = folder / data.draw(st.sampled_from(TENSORS))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = data.draw(st.sampled_from(sorted(header)))
    change = data.draw(st.sampled_from(["any", "type", "name", "shape", "swap"]))
    if change == "any":
        header = data.draw(changed(header))
    elif change == "type":
        header[name]["dtype"] = data.draw(_TYPES)
    elif change == "name":
        header[data.draw(texts)] = header.pop(name)
    elif change == "shape":
        header[name]["shape"] = data.draw(
            st.sampled_from([[], [1, *header[name]["shape"]], header[name]["shape"][::-1]])
        )
    else:
        other = data.draw(st.sampled_from(sorted(header)))
        header[name], header[other] = header[other], header[name]
    text = as_json(header)
    length = data.draw(st.sampled_from([len(text)] * 8 + [0, len(text) - 1, len(text) + 8, 2**40, 2**64 - 1]))
    path.write_bytes(struct.pack("<Q", length) + text + body)


def _numbers(folder: Path, data: st.DataObject) -> None:
    """Other numbers: infinite, NaN, very large."""
    path = folder / data.draw(st.sampled_from(TENSORS))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    number = struct.pack("<f", data.draw(st.sampled_from([float("nan"), float("inf"), 1e38, -1e38, 0.0])))
    path.write_bytes(content[: 8 + length] + number * (len(content[8 + length :]) // 4))


def _files(folder: Path, data: st.DataObject) -> None:
    """Other files: swapped, missing, folders, links."""
    one, other = (folder / data.draw(st.sampled_from([STATE, *TENSORS])) for _ in range(2))
    change = data.draw(st.sampled_from(["swap", "remove", "folder", "link", "loop", "empty", "rename"]))
    if change == "swap":
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif change == "rename":
        folder.rename(folder.with_name(data.draw(st.sampled_from(["step-0", "step-99999999", "step-9" + "9" * 30]))))
    else:
        one.unlink()
        if change == "folder":
            one.mkdir()
        elif change in ("link", "loop"):
            one.symlink_to(one.name if change == "loop" else "/etc/passwd")
        elif change == "empty":
            one.touch()


DAMAGES: tuple[Damage, ...] = (_values, _numbers, _header, _bytes)
"""In the order in which one can follow another: after the last two, a file can often not be read."""


def _vouch(folder: Path) -> None:
    """Make hashes and digest those of the files, so that what comes after them is reached."""
    try:
        state = json.loads((folder / STATE).read_text())
        for name in TENSORS:
            state["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / STATE).write_bytes(as_json(state))
        state["digest"] = digest(load((folder / META).read_bytes()))
        (folder / STATE).write_bytes(as_json(state))
    except Exception:  # files that cannot be read so far cannot be vouched for
        return


def _damage(folder: Path, data: st.DataObject) -> None:
    newest = folder / "runs" / "waves" / "step-00000002"
    chosen = data.draw(st.sets(st.sampled_from(DAMAGES), min_size=1, max_size=2))
    for damage in (each for each in DAMAGES if each in chosen):
        damage(newest, data)
    if data.draw(st.integers(0, 4)):
        _vouch(newest)
    if data.draw(st.integers(0, 4)) == 0:
        _files(newest, data)


def _load_and_adapt(place: Place) -> None:
    outcome = place.call("distmeta.load('runs/waves')", lambda: distmeta.load("runs/waves"))
    if outcome.value is not None:
        inputs = np.zeros((2, *outcome.value.input_shape))
        targets = np.arange(2) if outcome.value.is_classifier else np.zeros((2, 1))
        place.call("adapt", lambda: outcome.value.adapt(inputs, targets)(inputs))


COMMANDS = (
    ("checkpoint", "show", "runs/waves"),
    ("checkpoint", "show", "runs/waves", "--json"),
    ("checkpoint", "digest", "runs/waves", "--which", "best"),
    ("checkpoint", "list"),
    ("checkpoint", "list", "runs/waves", "--json"),
    ("evaluate", "runs/waves", "--tasks", "2"),
    ("evaluate", "runs/waves", "--tasks", "2", "--json", "--set", "tasks.shots=3"),
    ("train", "waves.yaml", "--resume"),
    ("train", "waves.yaml", "--resume", "--which", "previous"),
    ("train", "waves.yaml", "--anew", "--set", "train.steps=1"),
)


@given(command=st.sampled_from(COMMANDS), data=st.data())
def test_commands_on_damaged_checkpoints(
    places: Places, trained: Path, command: tuple[str, ...], data: st.DataObject
) -> None:
    with places() as place:
        shutil.copytree(trained, place.work, dirs_exist_ok=True)
        _damage(place.work, data)
        outcome = place.run(*command)
        if outcome.code == 0 and "--json" in command:
            json.loads(outcome.stdout.splitlines()[-1])


@given(data=st.data())
def test_learners_of_damaged_checkpoints(places: Places, trained: Path, data: st.DataObject) -> None:
    with places() as place:
        shutil.copytree(trained, place.work, dirs_exist_ok=True)
        _damage(place.work, data)
        _load_and_adapt(place)
