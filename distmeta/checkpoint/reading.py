"""Find, load and verify checkpoints. Nothing is unpickled."""

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
from distmeta.config.base import to_user_error
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.paths import runs_path
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, PARAMS, State


def load(path: str | os.PathLike[str], which: Literal["latest", "best"] = "latest") -> Checkpoint:
    """Load a checkpoint and verify every file.

    Args:
        path: Folder of a checkpoint or of a run; a local path or an fsspec URL.
        which: For a run, load the newest checkpoint or the best one by score (the newest if none has a score).

    Raises:
        UserError: There is no checkpoint, it is damaged, or its format or configuration is unknown.
    """
    folder = _find(Folder.at(path), which)
    content = _read_state(folder)
    try:
        config = RunConfig.model_validate(content.config)
    except ValidationError as error:
        raise to_user_error(error, RunConfig, source=f"config in {(folder / MARKER).url}") from error
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
        content.progress,
        content.digest,
    )


def latest(root: str | os.PathLike[str], name: str) -> str | None:
    """Path of the newest checkpoint of the run `name` in the `checkpoint.path` `root`; None if it has none."""
    by_step = checkpoints_by_step(run_folder(root, name))
    return by_step[max(by_step)].url if by_step else None


def summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """List checkpoints by run and step. Only their `state.json` files are read.

    Args:
        path: A folder of runs, the folder of a run, or a checkpoint.

    Raises:
        UserError: There is no checkpoint, or a `state.json` is damaged.
    """
    root = Folder.at(path)
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


def _find(folder: Folder, which: Literal["latest", "best"]) -> Folder:
    if folder.is_complete():
        return folder
    by_step = checkpoints_by_step(folder)
    if not by_step:
        raise _not_found(folder)
    best = best_step(folder) if which == "best" else None
    return by_step[max(by_step) if best is None else best]


def _not_found(folder: Folder) -> UserError:
    what = "there is no checkpoint in it" if folder.exists() else "there is no such file or folder"
    return UserError(what, where=folder.url, allowed=f"a folder with {MARKER}, or one with step-00000100 folders")


def _read_state(folder: Folder) -> StateFile:
    where = (folder / MARKER).url
    try:
        raw = json.loads(folder.read(MARKER))
    except ValueError as error:
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
