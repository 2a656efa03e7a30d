"""A run from its start, or its last checkpoint, to its end.

    snapshot = server.pull()
    shards   = source.shards("train", step, ...)
    executor.map(work, snapshot, shards)  ->  server.push(report)  ...  server.step()     (distmeta.training.steps)
    at their intervals: evaluate, log, checkpoint

The result depends on the configuration alone: not on the executor, the number of workers, failures, or resuming.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Literal

import torch

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.signals import SignalGuard, Stopped
from distmeta.core.tensors import digest
from distmeta.core.types import Snapshot, Work
from distmeta.methods.build import protocol_of
from distmeta.program.program import CHOOSE, UPDATE, MetaProgram, MetaRecipe
from distmeta.program.scoring import Score, headline
from distmeta.runtime import build_executor
from distmeta.runtime.device import check_device
from distmeta.runtime.executor import Executor
from distmeta.runtime.memory import keep_freed_memory
from distmeta.server import StepRecord
from distmeta.server.outer import check_optimizer
from distmeta.tracking import build_tracker
from distmeta.tracking.base import RunStatus, Tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import process_metrics
from distmeta.tracking.uris import mask_uri
from distmeta.training.evaluate import evaluate_shards
from distmeta.training.incidents import IncidentLog
from distmeta.training.pictures import keep_pictures, local_folder
from distmeta.training.rates import Rates
from distmeta.training.result import Evaluation, TrainResult
from distmeta.training.steps import Procedure, build_procedure

Which = Literal["latest", "previous"]


def train(
    config: RunConfig,
    *,
    resume: bool | Literal["auto"] = False,
    which: Which = "latest",
    anew: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Run a configuration to its end.

    Args:
        config: The run.
        resume: Continue from the newest checkpoint of the run of this name; `auto`: if it has one, and start otherwise.
        which: The checkpoint to resume from: the newest, or the one before it (later ones are renamed, not removed).
        anew: Start again although the run has checkpoints, which are moved to `<name>~1`, `<name>~2`, ...
        quiet: Print progress to standard error instead of standard output.

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
            return _train(config, resume, which, anew, quiet, guard)
    finally:
        torch.set_num_threads(threads)


def _train(
    config: RunConfig, resume: bool | Literal["auto"], which: Which, anew: bool, quiet: bool, guard: SignalGuard
) -> TrainResult:
    if config.runtime.executor == "local":
        check_device(config.runtime.device)
    checkpoints.check_store(config.checkpoint.path)
    with contextlib.ExitStack() as stack:
        program = MetaProgram(config)
        stack.callback(program.close)
        params = program.algorithm.learner.init(config.seed)
        check_optimizer(config.outer)
        size = sum(tensor.nbytes for tensor in params.values())
        latest = _latest(config)
        if latest is not None and not resume and not anew:
            raise UserError(
                f"the run '{config.name}' has checkpoints ({mask_uri(latest)})",
                where="name",
                allowed="--resume to continue it, --anew to move them and start again, or --set name=ANOTHER",
            )
        continues = resume is True or (resume == "auto" and latest is not None)
        checkpoint = checkpoints.resumable(config, which) if continues else None
        stack.enter_context(checkpoints.run_lock(config.checkpoint.path, config.name))
        executor = build_executor(
            config.runtime, MetaRecipe.of(config), config.outer.compression, size, program=program
        )
        stack.callback(executor.close)
        executor.interrupt = guard.check
        if config.runtime.device != "cpu":
            executor.ready()  # only the workers know whether they have the device: until then, nothing is recorded
        procedure = build_procedure(config, params, program.source, executor)
        if checkpoint is not None:
            procedure.server.load_state_dict(checkpoint.state)
        else:
            if latest != _latest(config):
                raise DistmetaError(
                    f"checkpoints of '{config.name}' have appeared while a new run was about to start: their storage "
                    "may have been unavailable; start it again to resume from them"
                )
            checkpoints.probe(config)
        tracker = build_tracker(config.tracking)
        pending = checkpoints.pending(checkpoint.path) if checkpoint else ()
        resumed = checkpoint.run_id if checkpoint else None
        run_id = tracker.start(config.name, config.model_dump(mode="json"), resumed, pending) or None
        stack.push(lambda kind, error, trace: tracker.close(_status(kind)))
        stack.callback(guard.shield)
        return _Run(config, program, procedure, executor, tracker, run_id, quiet, checkpoint, guard).run()


def _status(error: type[BaseException] | None) -> RunStatus:
    if error is None:
        return "FINISHED"
    return "KILLED" if issubclass(error, (KeyboardInterrupt, Stopped)) else "FAILED"


def _latest(config: RunConfig) -> str | None:
    return checkpoints.latest(config.checkpoint.path, config.name)


class _Run:
    """The state of the driver's loop."""

    def __init__(
        self,
        config: RunConfig,
        program: MetaProgram,
        procedure: Procedure,
        executor: Executor,
        tracker: Tracker,
        run_id: str | None,
        quiet: bool,
        checkpoint: checkpoints.Checkpoint | None,
        guard: SignalGuard,
    ) -> None:
        self._guard = guard
        self._config, self._program, self._procedure, self._server = config, program, procedure, procedure.server
        self._executor, self._tracker, self._run_id, self._checkpoint = executor, tracker, run_id, checkpoint
        before = checkpoint.progress if checkpoint else {}
        self._train_s, self._tasks = before.get("train_s", 0.0), int(before.get("tasks", 0))
        self._saved = checkpoint.path if checkpoint else None
        self._protocol = protocol_of(config)
        self._progress = Progress(config.train.steps, name=config.name, quiet=quiet)
        self._incidents = IncidentLog(executor, tracker, self._progress, self._server.version, before)
        self._saver, self._unsaved = checkpoints.Saver(), False
        self._rates = Rates()
        self._evaluations: list[Evaluation] = []

    def run(self) -> TrainResult:
        """Train, evaluate, save."""
        config, budget = self._config, self._config.train.budget_s
        if self._run_id is not None:
            self._progress.note(f"mlflow  {self._tracker.address()}")
        if self._checkpoint is not None:
            self._executor.counts["resumes"] += 1
        elif _latest(config) is None:
            self._save(None)  # so that a run that is interrupted before its first checkpoint is due can be resumed
        self._executor.ready()
        self._work = self._choose_engine()
        with self._guard.shielded():
            self._move_old_checkpoints()
        try:
            with self._guard.deferred(), self._progress:
                while self._server.version < config.train.steps and (budget is None or self._train_s < budget):
                    self._guard.check()
                    self._step()
            self._saved = self._saver.final(lambda: self._write(None)) if self._unsaved else self._saved
        except Stopped as stopped:
            self._save_stopped(stopped)
            raise
        scores = self._final_scores()
        pictures = self._keep(scores)
        self._incidents.flush(self._server.version)
        return TrainResult(
            name=config.name,
            run_id=self._run_id,
            address=self._tracker.address(),
            checkpoint=self._saved or "",
            digest=digest(self._server.pull().params),
            steps=self._server.version,
            train_s=self._train_s,
            tasks_per_s=self._tasks / self._train_s if self._train_s else 0.0,
            scores=tuple(scores),
            protocol=self._protocol,
            pictures=pictures,
            evaluations=tuple(self._evaluations),
            counts=self._incidents.counts(),
        )

    def _save_stopped(self, stopped: Stopped) -> None:
        """Save what has been trained, unless a step was interrupted in the middle: then the last checkpoint serves."""
        with self._guard.shielded():
            if self._unsaved and stopped.at_check:
                self._save(None)
            self._incidents.flush(self._server.version)

    def _move_old_checkpoints(self) -> None:
        """Put away checkpoints that are not of this run, once nothing is left that could prevent it from starting."""
        if self._checkpoint is not None:
            checkpoints.set_aside(self._config, self._checkpoint.step)
        elif self._saved is None:
            moved = checkpoints.retire(self._config.checkpoint.path, self._config.name)
            if moved is not None:
                self._progress.note(f"the earlier run of this name is now {mask_uri(moved)}")
            self._save(None)

    def _choose_engine(self) -> Work:
        """Fix how shards are computed, for all workers and the whole run: for `measured` one worker tries."""
        config, engine = self._config, self._config.engine
        if self._checkpoint is not None and self._checkpoint.config.engine.strategy not in ("auto", "measured"):
            engine = self._checkpoint.config.engine
        elif engine.strategy == "auto":
            choice = self._program.choose_by_shapes()
            engine = choice.apply(engine)
            self._progress.note(choice.reason)
        elif engine.strategy == "measured":
            shards = self._program.source.shards("train", 0, config.train.tasks_per_step, config.runtime.shard_size)
            [result] = self._executor.map(Work(CHOOSE, engine), self._server.pull(), shards[:1])
            choice = result.value
            engine = choice.apply(engine)
            self._progress.note(choice.reason)
            self._tracker.log(0, {"engine/choice_s": choice.took_s})
        self._config = config.model_copy(update={"engine": engine})
        return Work(UPDATE, engine)

    def _step(self) -> None:
        """One outer step, and what is due after it."""
        started = time.perf_counter()
        step = self._procedure.step(self._work)
        elapsed = time.perf_counter() - started
        self._train_s += elapsed
        self._tasks += step.tasks
        self._rates.add(step.results, elapsed, step.tasks, self._executor.num_workers)
        self._after(step.record)

    def _after(self, record: StepRecord) -> None:
        config, step = self._config, record.version
        budget_spent = config.train.budget_s is not None and self._train_s >= config.train.budget_s
        last = step == config.train.steps or budget_spent
        self._progress.update(step, {**record.metrics, **self._rates.metrics()})
        self._incidents.flush(step)
        self._unsaved = True
        if step % config.train.log_every == 0 or last or step == 1:
            self._log(record)
        score = None
        every = config.evaluation.every
        if every and (step % every == 0 or last):
            score = self._validate(step)
        if step % config.checkpoint.every == 0 or last or score is not None or self._saver.overdue():
            self._save(score)

    def _log(self, record: StepRecord) -> None:
        metrics = {f"train/{name}": value for name, value in {**record.metrics, **record.outer}.items()}
        metrics |= {f"perf/{name}": value for name, value in {**self._rates.metrics(), **process_metrics()}.items()}
        metrics |= {"perf/train_s": self._train_s, "perf/workers": float(self._executor.num_workers)}
        counts = {**self._incidents.counts(), "checkpoint_failures": self._saver.failures}
        metrics |= {f"runtime/{name}": float(count) for name, count in counts.items()}
        self._tracker.log(record.version, metrics)
        self._rates = Rates()

    def _validate(self, step: int) -> float:
        """Evaluate during training; returns the score that decides about the best checkpoint (higher is better)."""
        evaluation = self._config.evaluation
        scores = self._evaluate(evaluation.split, evaluation.tasks)
        self._tracker.log(step, {**_flat(evaluation.split, scores), "perf/train_s": self._train_s})
        self._evaluations.append(Evaluation(step, self._train_s, tuple(scores)))
        score = headline(scores, self._protocol)
        self._progress.note(
            f"step {step}: {evaluation.split} {score.metric} {score.mean[0]:.4f} -> {score.mean[-1]:.4f} "
            f"+- {score.interval[-1]:.4f} after {self._train_s:.0f} s of training"
        )
        return score.mean[-1] if score.metric == "accuracy" else -score.mean[-1]

    def _final_scores(self) -> list[Score]:
        num_tasks = self._config.evaluation.final_tasks
        if not num_tasks:
            return []
        scores = self._evaluate("test", num_tasks)
        self._tracker.log(self._server.version, _flat("final_test", scores))
        return scores

    def _keep(self, scores: Sequence[Score]) -> tuple[str, ...]:
        """Draw pictures, log the model and print the table; returns the paths of local pictures."""
        assert self._saved is not None
        config = self._config
        with local_folder(self._saved) as checkpoint:
            folder = checkpoint.parent / "pictures" if str(checkpoint) in self._saved else None
            kept = keep_pictures(self._program, self._server.averaged(), scores, self._protocol, self._tracker, folder)
            if config.tracking.model:
                self._tracker.model(checkpoint, config.name)
        self._progress.table(f"{config.name}: unseen test tasks", scores)
        return tuple(str(picture) for picture in kept)

    def _evaluate(self, split: str, tasks: int) -> list[Score]:
        config = self._config
        self._procedure.pause()
        shards = self._program.source.shards(split, 0, tasks, config.runtime.shard_size)
        # The average differs from the parameters of this version: a number of its own tells workers so.
        snapshot = Snapshot(-1 - self._server.version, self._server.averaged())
        return evaluate_shards(self._executor, config.engine, snapshot, shards)

    def _save(self, score: float | None) -> None:
        """Save a checkpoint; if the storage fails, training goes on and it is tried again later."""
        with self._guard.shielded():
            path = self._saver.save(lambda: self._write(score))
        if path is not None:
            self._saved, self._unsaved = path, False

    def _write(self, score: float | None) -> str:
        return checkpoints.save(
            self._config,
            self._server.version,
            self._server.state_dict(),
            signature=self._program.source.signature,
            run_id=self._run_id,
            score=score,
            progress={"train_s": self._train_s, "tasks": float(self._tasks), **self._incidents.progress()},
            pending=self._tracker.pending(),
        )


def _flat(prefix: str, scores: Sequence[Score]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for score in scores:
        name = f"{prefix}/{score.protocol}/{score.metric}"
        metrics |= {f"{name}_before": score.mean[0], name: score.mean[-1], f"{name}_ci95": score.interval[-1]}
    return metrics
