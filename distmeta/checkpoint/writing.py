"""Save checkpoints, and remove or move old ones."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence

from safetensors.torch import save as to_bytes
from torch import Tensor

from distmeta.checkpoint.files import AVERAGED, FORMAT, META, PENDING, SERVER, WORDS, StateFile, tensors_with_prefix
from distmeta.checkpoint.pending import encode_pending
from distmeta.checkpoint.reading import best_step, checkpoints_by_step, run_folder, runs_folder, step_of
from distmeta.checkpoint.storage import MARKER, Folder, StoreError, convert_errors
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, BUFFERS, PARAMS, State
from distmeta.tasks.base import TaskSignature
from distmeta.tracking.base import MetricPoint
from distmeta.tracking.flatten import masked_config

_LOG = logging.getLogger(__name__)


def save(
    config: RunConfig,
    step: int,
    state: State,
    *,
    signature: TaskSignature,
    run_id: str | None = None,
    score: float | None = None,
    progress: Mapping[str, float] | None = None,
    pending: Sequence[MetricPoint] = (),
    words: Sequence[str] | None = None,
) -> str:
    """Write a checkpoint atomically, then remove old ones.

    The newest `config.checkpoint.keep_last` checkpoints, the best one by `score` and the one just written are kept. If
    the store is full, old and incomplete ones are removed first, and the write is retried once. A failure to remove is
    only logged.

    Args:
        config: Configuration of the run, with its `name` and the `checkpoint` section.
        step: Number of outer steps.
        state: State dict of the server.
        signature: Input and output sizes of the tasks (`TaskSource.signature`).
        run_id: Id of the run in the tracker.
        score: Score by which the best checkpoint is chosen; higher is better. None if it was not evaluated.
        progress: State of the training loop.
        pending: Values that the tracking store has not confirmed (`Tracker.pending`).
        words: Vocabulary of the tasks' tokenizer, if it was made from texts (`TaskSource.words`).

    Returns:
        Path of the checkpoint.

    Raises:
        StoreError: The checkpoint cannot be written. Earlier checkpoints are unchanged.
        UserError: `checkpoint.path` is a URL of an unknown protocol.
    """
    params = tensors_with_prefix(state, PARAMS)
    groups = {META: params, AVERAGED: tensors_with_prefix(state, AVERAGE), SERVER: _optimizer_tensors(state)}
    files = {name: _serialize(tensors) for name, tensors in groups.items() if tensors}
    if pending:
        files[PENDING] = encode_pending(pending)
    if words is not None:
        files[WORDS] = json.dumps(list(words)).encode()
    content = StateFile(
        format=FORMAT,
        step=step,
        name=config.name,
        run_id=run_id,
        score=score,
        progress=dict(progress or {}),
        digest=digest({**params, **tensors_with_prefix(state, BUFFERS)}),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        server={name: value for name, value in state.items() if not isinstance(value, Tensor)},
        signature=signature,
        config=masked_config(config.model_dump(mode="json")),
        order=[name for name in state if name.startswith((PARAMS, AVERAGE, BUFFERS))],
    )
    run = run_folder(config.checkpoint.path, config.name)
    folder = run / f"step-{step:08d}"
    _write(run, folder, {**files, MARKER: content.model_dump_json(indent=2).encode()}, config.checkpoint.keep_last)
    try:
        _prune(run, keep_last=config.checkpoint.keep_last, saved=step)
    except StoreError as error:
        _LOG.warning("checkpoint: older ones are kept until the next save: %s", error)
    return folder.url


def probe(config: RunConfig) -> None:
    """Check at the start of a run that checkpoints can be written.

    Raises:
        UserError: They cannot be written.
    """
    run = run_folder(config.checkpoint.path, config.name)
    file = (run / ".probe").path
    try:
        with convert_errors("checkpoints cannot be written", run.url):
            run.fs.makedirs(run.path, exist_ok=True)
            run.fs.pipe_file(file, b"probe")
            run.fs.rm_file(file)
    except StoreError as error:
        raise UserError(str(error), where="checkpoint.path", allowed="a writable folder or URL") from error


def retire(root: str, name: str) -> str | None:
    """Move the checkpoints of a run, so that a new run can be started under the same name.

    They are moved to the first unused of `<name>~1`, `<name>~2`, ... Names of runs do not contain `~`.

    Returns:
        The new path; None if there are no checkpoints.

    Raises:
        StoreError: They cannot be moved.
    """
    run = run_folder(root, name)
    if not checkpoints_by_step(run):
        return None
    existing = {child.name for child in runs_folder(root).children()}
    unused = next(f"{name}~{number}" for number in itertools.count(1) if f"{name}~{number}" not in existing)
    retired = run_folder(root, unused)
    run.move(retired)
    return retired.url


def set_aside(config: RunConfig, step: int) -> None:
    """Rename the run's checkpoints after `step`, from which it is about to continue, to `aside-<step folder>`."""
    run = run_folder(config.checkpoint.path, config.name)
    for later, folder in checkpoints_by_step(run).items():
        if later > step:
            aside = run / f"aside-{folder.name}"
            aside.remove()
            folder.move(aside)


def _write(run: Folder, folder: Folder, files: Mapping[str, bytes], keep_last: int) -> None:
    try:
        folder.write(files)
    except StoreError as error:
        if not error.full:
            raise
        _prune(run, keep_last=keep_last)
        folder.write(files)


def _prune(run: Folder, *, keep_last: int, saved: int | None = None) -> None:
    """Remove incomplete checkpoints, and all but the newest, the best and the one just saved."""
    keep = {saved, best_step(run), *sorted(checkpoints_by_step(run))[-keep_last:]}
    for child in run.children():
        step = step_of(child)
        if child.is_leftover() or (step is not None and (step not in keep or not child.is_complete())):
            child.remove()


def _optimizer_tensors(state: State) -> Params:
    """The tensors that are neither meta-parameters nor their average."""
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.startswith((PARAMS, AVERAGE))
    }


def _serialize(tensors: Params) -> bytes:
    return to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
