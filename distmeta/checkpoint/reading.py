"""Find, load and verify checkpoints. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes

from distmeta.checkpoint.files import (
    AVERAGED,
    FILES,
    FORMAT,
    META,
    SERVER,
    WORDS,
    Checkpoint,
    StateFile,
    Summary,
    tensors_with_prefix,
)
from distmeta.checkpoint.storage import MARKER, Folder, open_folder
from distmeta.config.base import to_user_error
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.paths import runs_path
from distmeta.core.tensors import digest
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, BUFFERS, PARAMS, State

Which = Literal["latest", "previous", "best"]
"""A checkpoint of a run: the newest, the one before it, or the best by validation score."""


def load(path: str | os.PathLike[str], which: Which = "latest") -> Checkpoint:
    """Load a checkpoint and verify every file.

    Args:
        path: Folder of a checkpoint or of a run; a local path or an fsspec URL.
        which: For a run: the newest checkpoint, the one before it, or the best by score.

    Raises:
        UserError: There is no checkpoint, it is damaged, its format or configuration is unknown, or the store does not
            answer.
        StoreError: The store fails later on.
    """
    return load_folder(_find(open_folder(path), which))


def load_folder(folder: Folder) -> Checkpoint:
    """Load the checkpoint in a folder; see `load`."""
    content = _read_state(folder)
    config = _local_config(content.config, f"config in {(folder / MARKER).shown}")
    state: State = dict(content.server)
    for name, prefix in ((META, PARAMS), (AVERAGED, AVERAGE), (SERVER, "")):
        if name in content.sha256:
            tensors = _read_tensors(folder, name, content.sha256[name])
            state.update({prefix + key: tensor for key, tensor in sorted(tensors.items())})
    state = {**{name: state[name] for name in content.order if name in state}, **state}
    actual = digest({**tensors_with_prefix(state, PARAMS), **tensors_with_prefix(state, BUFFERS)})
    if actual != content.digest:
        raise UserError(
            f"digest {content.digest[:64]}", where=(folder / MARKER).shown, allowed=f"{actual}, of the tensors"
        )
    return Checkpoint(
        folder.url,
        content.step,
        config,
        content.config,
        content.signature,
        state,
        content.run_id,
        content.score,
        content.progress,
        content.digest,
        _read_words(folder, content.sha256[WORDS]) if WORDS in content.sha256 else None,
    )


_LOCAL_SECTIONS = ("runtime", "tracking", "checkpoint")
"""Sections of a configuration that say where to connect and where to write. They are never taken from a checkpoint."""
_ROUNDING = ("shard_size", "device")
"""Fields of `runtime` that the bits of a run depend on."""


def _local_config(recorded: Mapping[str, Any], source: str) -> RunConfig:
    """The configuration of a run, with this process's own `_LOCAL_SECTIONS`."""
    runtime = recorded.get("runtime")
    kept = {name: runtime[name] for name in _ROUNDING if name in runtime} if isinstance(runtime, Mapping) else {}
    local = {"runtime": {"executor": "local", **kept}, "tracking": {"kind": "none"}}
    sections = {name: value for name, value in recorded.items() if name not in _LOCAL_SECTIONS}
    model = sections.get("model")
    if isinstance(model, Mapping) and "init_from" in model:
        # The checkpoint has the values; the folder of initial ones need not exist any more.
        sections["model"] = {**model, "init_from": None}
    try:
        return RunConfig.model_validate({**sections, **local})
    except ValidationError as error:
        raise to_user_error(error, RunConfig, source=source) from error


def latest(root: str | os.PathLike[str], name: str) -> str | None:
    """Path of the newest checkpoint of the run `name` in the `checkpoint.path` `root`; None if it has none."""
    by_step = checkpoints_by_step(run_folder(root, name))
    return by_step[max(by_step)].url if by_step else None


def summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """List checkpoints by run and step. Only their `state.json` files are read.

    Args:
        path: A folder of runs, the folder of a run, or a checkpoint.

    Raises:
        UserError: There is no checkpoint, a `state.json` is damaged, or the store does not answer.
        StoreError: The store fails later on.
    """
    root = open_folder(path)
    if root.is_complete():
        return [_summary(root, best=False)]
    result = []
    for run in [root, *root.children()]:
        best = best_step(run)
        result += [_summary(folder, best=step == best) for step, folder in sorted(checkpoints_by_step(run).items())]
    if not result:
        raise _not_found(root)
    return result


def runs_folder(root: str | os.PathLike[str]) -> Folder:
    """The folder of runs of a `checkpoint.path`."""
    return Folder.at(runs_path(os.fspath(root)))


def check_store(root: str | os.PathLike[str]) -> None:
    """Check that the store of a `checkpoint.path` answers, before a run depends on it.

    Raises:
        UserError: It does not, or the URL's protocol is unknown, or its package is not installed.
    """
    open_folder(runs_path(os.fspath(root)), where="checkpoint.path")


def run_folder(root: str | os.PathLike[str], name: str) -> Folder:
    """The folder of a run's checkpoints."""
    return runs_folder(root) / name


def step_of(folder: Folder) -> int | None:
    """The step in the name of a checkpoint folder; None for other folders."""
    match = re.fullmatch(r"step-(\d{8,})", folder.name)
    return int(match.group(1)) if match else None


def checkpoints_by_step(run: Folder) -> dict[int, Folder]:
    """The complete checkpoints of a run."""
    folders = {step_of(child): child for child in run.children()}
    return {step: folder for step, folder in folders.items() if step is not None and folder.is_complete()}


def best_step(run: Folder) -> int | None:
    """Step of the checkpoint with the highest score, the earliest of equals; None if no score is a number.

    The scores are read from the checkpoints, which are few: a separate marker for the best one could become stale.
    """
    scores = {step: _score(folder) for step, folder in checkpoints_by_step(run).items()}
    numbers = {step: score for step, score in scores.items() if score is not None and not math.isnan(score)}
    return max(numbers, key=lambda step: (numbers[step], -step)) if numbers else None


def _score(folder: Folder) -> float | None:
    """Score of a checkpoint. A damaged one has none, so that it does not prevent a run from saving the next."""
    try:
        return _read_state(folder).score
    except UserError:
        return None


def _find(folder: Folder, which: Which) -> Folder:
    if folder.is_complete():
        return folder
    by_step = checkpoints_by_step(folder)
    if not by_step:
        raise _not_found(folder)
    if which == "previous":
        return previous(folder)
    if which == "latest":
        return by_step[max(by_step)]
    best = best_step(folder)
    if best is None:
        what = "no checkpoint has a validation score"
        raise UserError(what, where=folder.shown, allowed="the latest one, or a run with evaluation.every")
    return by_step[best]


def previous(run: Folder) -> Folder:
    """The checkpoint before the newest one of a run.

    Raises:
        UserError: There are fewer than two.
    """
    by_step = checkpoints_by_step(run)
    if len(by_step) < 2:
        raise UserError("there is no checkpoint before the newest one", where=run.shown, allowed="--which latest")
    return by_step[sorted(by_step)[-2]]


def _not_found(folder: Folder) -> UserError:
    what = "there is no checkpoint in it" if folder.exists() else "there is no such file or folder"
    return UserError(what, where=folder.shown, allowed=f"a folder with {MARKER}, or one with step-00000100 folders")


def _read_state(folder: Folder) -> StateFile:
    where = (folder / MARKER).shown
    try:
        raw = json.loads(folder.read(MARKER))
    except (ValueError, RecursionError) as error:
        raise UserError("the file is truncated or corrupted", where=where) from error
    format_ = raw.get("format") if isinstance(raw, dict) else None
    if format_ != FORMAT:
        raise UserError(f"unknown checkpoint format {format_!r}", where=where, allowed=str(FORMAT))
    try:
        content = StateFile.model_validate(raw)
    except ValidationError as error:
        raise to_user_error(error, StateFile, source=where) from error
    unknown = sorted(set(content.sha256) - set(FILES))
    if unknown or META not in content.sha256:
        raise UserError(f"it lists the files {sorted(content.sha256)}", where=where, allowed=", ".join(FILES))
    return content


def _read_tensors(folder: Folder, name: str, sha256: str) -> Params:
    content = _read_checked(folder, name, sha256)
    try:
        return from_bytes(content)
    except (SafetensorError, KeyError, ValueError) as error:  # a type that torch lacks is a KeyError
        raise UserError(f"not a safetensors file of torch's types: {error}", where=(folder / name).shown) from error


def _read_words(folder: Folder, sha256: str) -> tuple[str, ...]:
    where = (folder / WORDS).shown
    try:
        words = json.loads(_read_checked(folder, WORDS, sha256))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where) from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(set(words)) < len(words):
        raise UserError("it holds no list of distinct words", where=where, allowed="a checkpoint as it was saved")
    return tuple(words)


def _read_checked(folder: Folder, name: str, sha256: str) -> bytes:
    """The content of a file, whose digest is compared."""
    content = folder.read(name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError("the file is truncated or corrupted", where=(folder / name).shown, allowed=f"sha256 {sha256}")
    return content


def _summary(folder: Folder, *, best: bool) -> Summary:
    content = _read_state(folder)
    return Summary(folder.url, content.name, content.step, content.score, content.digest, best)
