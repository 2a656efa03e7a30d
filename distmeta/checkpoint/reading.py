"""Find, verify and read checkpoints. Every problem is one clear line; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes

from distmeta.checkpoint.files import AVERAGED, FILES, FORMAT, META, SERVER, Checkpoint, StateFile, Summary
from distmeta.checkpoint.storage import MARKER, Folder
from distmeta.config.base import explain
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.paths import runs_path
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, PARAMS, State


def load(path: str | os.PathLike[str], which: Literal["latest", "best"] = "latest") -> Checkpoint:
    """Read a checkpoint and verify every file.

    Args:
        path: A checkpoint's folder, or a run's folder, which holds several; a local path or an fsspec URL.
        which: Of a run's folder, the newest checkpoint or the best one by score (the newest if none has a score).

    Raises:
        UserError: There is no checkpoint, or it is damaged, or of a format or configuration that is not known.
    """
    folder = _find(Folder.at(path), which)
    content = _read_state(folder)
    try:
        config = RunConfig.model_validate(content.config)
    except ValidationError as error:
        raise explain(error, RunConfig, source=f"config in {(folder / MARKER).url}") from error
    state: State = dict(content.server)
    for name, prefix in ((META, PARAMS), (AVERAGED, AVERAGE), (SERVER, "")):
        if name in content.sha256:
            tensors = _read_tensors(folder, name, content.sha256[name])
            state.update({prefix + key: tensor for key, tensor in tensors.items()})
    return Checkpoint(
        folder.url,
        content.step,
        config,
        content.signature,
        state,
        content.run_id,
        content.score,
        content.metrics,
        content.progress,
        content.digest,
    )


def latest(root: str | os.PathLike[str], name: str) -> str | None:
    """Where the newest checkpoint of a run lies, given its `checkpoint.path`; None if it has none."""
    found = checkpoints(run_folder(root, name))
    return found[max(found)].url if found else None


def summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """What checkpoints there are, by run and step, read from their `state.json` alone.

    Args:
        path: A folder of runs, one run's folder, or one checkpoint.

    Raises:
        UserError: There is none, or a `state.json` is damaged.
    """
    top = Folder.at(path)
    if top.is_marked():
        found = [_summary(top, best=False)]
    else:
        found = []
        for run in [top, *top.children()]:
            best = best_of(run)
            found += [_summary(folder, best=step == best) for step, folder in sorted(checkpoints(run).items())]
    if not found:
        raise _nothing_at(top)
    return found


def runs_folder(root: str | os.PathLike[str]) -> Folder:
    """The folder of runs that a `checkpoint.path` names."""
    return Folder.at(runs_path(os.fspath(root)))


def run_folder(root: str | os.PathLike[str], name: str) -> Folder:
    """The folder of a run's checkpoints."""
    return runs_folder(root) / name


def step_of(folder: Folder) -> int | None:
    """The step in a folder's name; None for other folders."""
    match = re.fullmatch(r"step-(\d{8,})", folder.name)
    return int(match.group(1)) if match else None


def checkpoints(run: Folder) -> dict[int, Folder]:
    """A run's whole checkpoints by step."""
    found = {step_of(child): child for child in run.children()}
    return {step: child for step, child in found.items() if step is not None and child.is_marked()}


def best_of(run: Folder) -> int | None:
    """Step of the checkpoint with the highest score, the earliest of equals; None if no score is a number.

    It is found from the checkpoints themselves: they are few, and a marker of its own could contradict them.
    """
    scores = {step: _score(folder) for step, folder in checkpoints(run).items()}
    numbers = {step: score for step, score in scores.items() if score is not None and not math.isnan(score)}
    return max(numbers, key=lambda step: (numbers[step], -step)) if numbers else None


def _score(folder: Folder) -> float | None:
    """A checkpoint's score. A damaged checkpoint has none: it must not stop a run from saving the next one."""
    try:
        return _read_state(folder).score
    except UserError:
        return None


def _find(folder: Folder, which: Literal["latest", "best"]) -> Folder:
    if folder.is_marked():
        return folder
    found = checkpoints(folder)
    if not found:
        raise _nothing_at(folder)
    best = best_of(folder) if which == "best" else None
    return found[max(found) if best is None else best]


def _nothing_at(folder: Folder) -> UserError:
    what = "there is no checkpoint in it" if folder.exists() else "there is no such file or folder"
    return UserError(what, where=folder.url, allowed=f"a folder with {MARKER}, or one with step-00000100 folders")


def _read_state(folder: Folder) -> StateFile:
    where = (folder / MARKER).url
    try:
        raw = json.loads(folder.read(MARKER))
    except ValueError as error:
        raise UserError("the file is truncated or corrupted", where=where) from error
    version = raw.get("format") if isinstance(raw, dict) else None
    if version != FORMAT:
        raise UserError(f"unknown checkpoint format {version!r}", where=where, allowed=str(FORMAT))
    try:
        content = StateFile.model_validate(raw)
    except ValidationError as error:
        raise explain(error, StateFile, source=where) from error
    unknown = sorted(set(content.sha256) - set(FILES))
    if unknown or META not in content.sha256:
        raise UserError(f"it lists the files {sorted(content.sha256)}", where=where, allowed=", ".join(FILES))
    return content


def _read_tensors(folder: Folder, name: str, sha256: str) -> Params:
    content = folder.read(name)
    try:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError("the file is truncated or corrupted", where=(folder / name).url, allowed=f"sha256 {sha256}")
        return from_bytes(content)
    except SafetensorError as error:
        raise UserError(f"not a safetensors file: {error}", where=(folder / name).url) from error


def _summary(folder: Folder, *, best: bool) -> Summary:
    content = _read_state(folder)
    return Summary(folder.url, content.name, content.step, content.score, content.digest, best)
