"""Save checkpoints, and put away those that are no longer wanted."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence

from safetensors.torch import save as to_bytes
from torch import Tensor

from distmeta.checkpoint.files import AVERAGED, FORMAT, META, PENDING, SERVER, StateFile, tensors_under
from distmeta.checkpoint.pending import pack
from distmeta.checkpoint.reading import best_of, checkpoints, run_folder, runs_folder, step_of
from distmeta.checkpoint.storage import MARKER, Folder, StoreError, store_errors
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, PARAMS, State
from distmeta.tasks.base import TaskSignature
from distmeta.tracking.base import MetricPoint

_LOG = logging.getLogger(__name__)


def save(
    config: RunConfig,
    step: int,
    state: State,
    *,
    signature: TaskSignature,
    run_id: str | None = None,
    score: float | None = None,
    metrics: Mapping[str, float] | None = None,
    progress: Mapping[str, float] | None = None,
    pending: Sequence[MetricPoint] = (),
) -> str:
    """Write a checkpoint, whole or not at all, then remove what `config.checkpoint.keep_last` does not keep.

    The newest checkpoints, the best one by `score` and the one just written stay. Where there is no room, what crashes
    and failures have left is removed first, and the write tried once more. A failure to remove is only logged.

    Args:
        config: The run's configuration; it says where (`checkpoint.path`, `name`) and how many.
        step: Outer steps made.
        state: `ParameterServer.state_dict()`.
        signature: What the network fits (`TaskSource.signature`).
        run_id: The tracker's id of the run.
        score: Value of this checkpoint for choosing the best, higher is better; None for one that was not evaluated.
        metrics: Values to show.
        progress: What the training loop needs to go on.
        pending: What the tracker has not yet got through to its store (`Tracker.pending`).

    Returns:
        Where the checkpoint lies.

    Raises:
        StoreError: It cannot be written there. Earlier checkpoints are as they were.
        UserError: `checkpoint.path` is a URL of an unknown kind.
    """
    params = tensors_under(state, PARAMS)
    parts = {META: params, AVERAGED: tensors_under(state, AVERAGE), SERVER: _rest(state)}
    files = {name: _bytes(tensors) for name, tensors in parts.items() if tensors}
    if pending:
        files[PENDING] = pack(pending)
    content = StateFile(
        format=FORMAT,
        step=step,
        name=config.name,
        run_id=run_id,
        score=score,
        metrics=dict(metrics or {}),
        progress=dict(progress or {}),
        digest=digest(params),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        server={name: value for name, value in state.items() if not isinstance(value, Tensor)},
        signature=signature,
        config=config.model_dump(mode="json"),
    )
    run = run_folder(config.checkpoint.path, config.name)
    folder = run / f"step-{step:08d}"
    _write(run, folder, {**files, MARKER: content.model_dump_json(indent=2).encode()}, config.checkpoint.keep_last)
    try:
        _prune(run, keep_last=config.checkpoint.keep_last, saved=step)
    except StoreError as error:
        _LOG.warning("checkpoint: older ones stay until the next is saved: %s", error)
    return folder.url


def probe(config: RunConfig) -> None:
    """Try whether checkpoints can be written, before work is put into a run.

    Raises:
        UserError: They cannot.
    """
    run = run_folder(config.checkpoint.path, config.name)
    file = (run / ".probe").path
    try:
        with store_errors("checkpoints cannot be written", run.url):
            run.fs.makedirs(run.path, exist_ok=True)
            run.fs.pipe_file(file, b"probe")
            run.fs.rm_file(file)
    except StoreError as error:
        raise UserError(str(error), where="checkpoint.path", allowed="a folder or URL that can be written") from error


def retire(root: str, name: str) -> str | None:
    """Move a run's checkpoints out of the way, so that a run can start anew under the same name.

    They go to the first free one of `<name>~1`, `<name>~2`, ... `~` is in no run's name.

    Returns:
        Where they lie now; None if there were none.

    Raises:
        StoreError: They cannot be moved.
    """
    run = run_folder(root, name)
    if not checkpoints(run):
        return None
    taken = {child.name for child in runs_folder(root).children()}
    free = next(f"{name}~{number}" for number in itertools.count(1) if f"{name}~{number}" not in taken)
    retired = run_folder(root, free)
    run.move(retired)
    return retired.url


def _write(run: Folder, folder: Folder, files: Mapping[str, bytes], keep_last: int) -> None:
    try:
        folder.write(files)
    except StoreError as error:
        if not error.full:
            raise
        _prune(run, keep_last=keep_last)
        folder.write(files)


def _prune(run: Folder, *, keep_last: int, saved: int | None = None) -> None:
    found = checkpoints(run)
    keep = {saved, best_of(run), *sorted(found)[-keep_last:]}
    _clean(run, {step for step in keep if step is not None})


def _clean(run: Folder, keep: set[int]) -> None:
    """Remove the checkpoints whose step is not in `keep`, and what crashes left of others."""
    for child in run.children():
        step = step_of(child)
        if child.is_debris() or (step is not None and (step not in keep or not child.is_marked())):
            child.remove()


def _rest(state: State) -> Params:
    """The tensors that are neither meta-parameters nor their average."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.startswith((PARAMS, AVERAGE))
    }


def _bytes(tensors: Params) -> bytes:
    return to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
