"""A run from its start, or its last checkpoint, to its end.

    snapshot = server.pull()
    shards   = source.shards("train", step, ...)
    executor.map(work, snapshot, shards)  ->  server.push(report)  ...  server.step()     (distmeta.training.steps)
    at their intervals: evaluate, log, checkpoint

The result depends on the configuration alone: not on the executor, the number of workers, failures, or resuming.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.python import pinned
from distmeta.core.collector import paused as paused_collector
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.signals import SignalGuard, Stopped
from distmeta.program.program import MetaProgram, MetaRecipe
from distmeta.runtime import build_executor
from distmeta.runtime.device import check_device
from distmeta.runtime.memory import keep_freed_memory
from distmeta.server.outer import check_optimizer
from distmeta.tracking import build_tracker, plots
from distmeta.tracking.base import RunStatus
from distmeta.tracking.console import Progress
from distmeta.tracking.uris import mask_uri, tracking_uri
from distmeta.training.callbacks import Callback, Callbacks
from distmeta.training.loop import Loop, Request, Which, latest_checkpoint
from distmeta.training.result import TrainResult
from distmeta.training.start import initial
from distmeta.training.steps import build_procedure


def train(
    config: RunConfig,
    *,
    resume: bool | Literal["auto"] = False,
    which: Which = "latest",
    anew: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    tags: Mapping[str, str] | None = None,
) -> TrainResult:
    """Run a configuration to its end.

    Args:
        config: The run.
        resume: Continue from the newest checkpoint of the run of this name; `auto`: if it has one, and start otherwise.
        which: The checkpoint to resume from: the newest, or the one before it (later ones are renamed, not removed).
        anew: Start again although the run has checkpoints, which are moved to `<name>~1`, `<name>~2`, ...
        quiet: Print progress to standard error instead of standard output.
        callbacks: Called after every step and every evaluation; they can end the run (`StopTraining`).
        tags: Further tags of the run in MLflow.

    Raises:
        UserError: The configuration cannot work, there is nothing to resume, the run has checkpoints and it was said
            neither to resume nor to start anew, or another process is training it.
        WorkerError: A shard could not be computed.
    """
    # The driver shares its cores with the workers: more threads here would compete with theirs.
    threads = torch.get_num_threads()
    torch.set_num_threads(config.runtime.threads_per_worker)
    keep_freed_memory()
    try:
        with SignalGuard() as guard:
            run = Request(pinned(config), resume, which, anew, Callbacks(callbacks), dict(tags or {}))
            return _train(run, Progress(config.train.steps, name=config.name, quiet=quiet), guard)
    finally:
        torch.set_num_threads(threads)


def _train(request: Request, progress: Progress, guard: SignalGuard) -> TrainResult:
    config, resume, anew = request.config, request.resume, request.anew
    if config.runtime.executor == "local":
        check_device(config.runtime.device)
    checkpoints.check_store(config.checkpoint.path)
    with contextlib.ExitStack() as stack:
        loading = stack.enter_context(contextlib.ExitStack())
        loading.enter_context(paused_collector())
        tracker = build_tracker(config.tracking)
        tracker.prepare()
        program = MetaProgram(config)
        stack.callback(program.close)
        check_optimizer(config.outer)
        latest = latest_checkpoint(config)
        if latest is not None and not resume and not anew:
            raise UserError(
                f"the run '{config.name}' has checkpoints ({mask_uri(latest)})",
                where="name",
                allowed="--resume to continue it, --anew to move them and start again, or --set name=ANOTHER",
            )
        continues = resume is True or (resume == "auto" and latest is not None)
        checkpoint = checkpoints.resumable(config, request.which) if continues else None
        params, buffers = initial(config, program.algorithm.learner, resumed=continues)
        size = sum(tensor.nbytes for tensor in params.values())
        stack.enter_context(checkpoints.run_lock(config.checkpoint.path, config.name))
        if config.runtime.executor == "ray":
            progress.note(_connecting(config))
        executor = build_executor(
            config.runtime,
            MetaRecipe.of(config),
            config.outer.compression,
            size,
            program=program,
            leaders=config.outer.procedure == "synchronous",
        )
        stack.callback(executor.close)
        executor.interrupt = guard.check
        if config.runtime.device != "cpu":
            executor.ready()  # only the workers know whether they have the device: until then, nothing is recorded
        procedure = build_procedure(config, params, program.source, executor, buffers)
        if checkpoint is not None:
            procedure.load_state_dict(checkpoint.state)
        else:
            if latest != latest_checkpoint(config):
                raise DistmetaError(
                    f"checkpoints of '{config.name}' have appeared while a new run was about to start: their storage "
                    "may have been unavailable; start it again to resume from them"
                )
            checkpoints.probe(config)
        if config.tracking.kind == "mlflow":
            store = mask_uri(tracking_uri(config.tracking.uri, config.tracking.uri_file))
            progress.note(f"{config.name}: opening {store}")
            loading.callback(plots.load_ahead().join)  # the store's process is at work, and this one waits
        pending = checkpoints.pending(checkpoint.path) if checkpoint else ()
        resumed = checkpoint.run_id if checkpoint else None
        run_id = tracker.start(config.name, config.model_dump(mode="json"), resumed, pending, request.tags) or None
        stack.push(lambda kind, error, trace: tracker.close(end_status(kind)))
        stack.callback(guard.shield)
        run = Loop(request, program, procedure, executor, tracker, run_id, progress, checkpoint, guard)
        loading.close()
        return run.run()


def _connecting(config: RunConfig) -> str:
    address = config.runtime.address or os.environ.get("RAY_ADDRESS")
    return f"{config.name}: " + (f"connecting to Ray at {mask_uri(address)}" if address else "starting Ray")


def end_status(error: type[BaseException] | None) -> RunStatus:
    """How a run ended, by the exception that left its block."""
    if error is None:
        return "FINISHED"
    return "KILLED" if issubclass(error, (KeyboardInterrupt, Stopped)) else "FAILED"
