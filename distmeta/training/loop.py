"""The driver's loop: steps, and what is due after each; then the final test, the pictures and the result."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.core.collector import paused as paused_collector
from distmeta.core.signals import SignalGuard, Stopped
from distmeta.core.tensors import digest
from distmeta.core.types import Params, Snapshot, Work
from distmeta.methods.build import protocol_of
from distmeta.program.program import CHOOSE, UPDATE, MetaProgram
from distmeta.program.scoring import HIGHER_IS_BETTER, Score, headline
from distmeta.runtime.executor import Executor
from distmeta.server import StepRecord
from distmeta.tracking.base import Tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import process_metrics
from distmeta.tracking.uris import mask_uri
from distmeta.training.callbacks import Callbacks
from distmeta.training.evaluate import evaluate_shards
from distmeta.training.incidents import IncidentLog
from distmeta.training.pictures import keep_pictures, local_folder
from distmeta.training.procedure import Procedure
from distmeta.training.rates import Rates
from distmeta.training.result import Evaluation, TrainResult
from distmeta.training.saving import Saving
from distmeta.training.selection import Evaluated, Selection
from distmeta.training.watch import Watch

Which = Literal["latest", "previous"]


@dataclass(frozen=True)
class Request:
    """Arguments of `train`."""

    config: RunConfig
    resume: bool | Literal["auto"]
    which: Which
    anew: bool
    callbacks: Callbacks
    tags: Mapping[str, str]


def latest_checkpoint(config: RunConfig) -> str | None:
    return checkpoints.latest(config.checkpoint.path, config.name)


class Loop:
    """The state of the driver's loop."""

    def __init__(
        self,
        request: Request,
        program: MetaProgram,
        procedure: Procedure,
        executor: Executor,
        tracker: Tracker,
        run_id: str | None,
        progress: Progress,
        checkpoint: checkpoints.Checkpoint | None,
        guard: SignalGuard,
    ) -> None:
        config = request.config
        self._guard, self._callbacks, self._progress = guard, request.callbacks, progress
        self._config, self._program, self._procedure, self._server = config, program, procedure, procedure.server
        self._executor, self._tracker, self._run_id, self._checkpoint = executor, tracker, run_id, checkpoint
        before = checkpoint.progress if checkpoint else {}
        self._train_s, self._tasks = before.get("train_s", 0.0), int(before.get("tasks", 0))
        self._protocol = protocol_of(program.algorithm)
        self._incidents = IncidentLog(executor, tracker, self._progress, self._server.version, before)
        self._rates = Rates()
        self._watch = Watch(config.name, executor, tracker, self._incidents)
        self._evaluations: list[Evaluation] = []
        self._selection = Selection(config.train.patience, before)
        self._metrics: dict[int, dict[str, float]] = {}
        self._saving = Saving(
            config,
            self._procedure,
            program.source,
            run_id,
            tracker,
            guard,
            self._selection,
            self._counted,
            checkpoint,
        )

    def run(self) -> TrainResult:
        """Train, evaluate, save."""
        if self._run_id is not None:
            self._progress.note(f"mlflow  {self._tracker.address()}")
        if self._checkpoint is not None:
            self._executor.counts["resumes"] += 1
        elif latest_checkpoint(self._config) is None:
            self._saving.save()  # so that a run that is interrupted before its first checkpoint is due can be resumed
        if self._config.runtime.executor == "ray":
            self._progress.note(f"{self._config.name}: waiting for {self._config.runtime.min_workers} workers")
        self._executor.ready()
        self._work = self._choose_engine()
        with self._guard.shielded():  # once nothing is left that could prevent the run from starting
            if moved := self._saving.move_old():
                self._progress.note(f"the earlier run of this name is now {mask_uri(moved)}")
        try:
            with self._guard.deferred(), self._progress:
                while not self._is_over():
                    self._guard.check()
                    self._step()
            self._saving.finish()
        except Stopped as stopped:
            self._save_stopped(stopped)
            raise
        tested = self._choose_tested()
        scores = self._final_scores(tested)
        with self._closing_cluster():
            pictures = self._keep(tested, scores)
        self._incidents.flush(self._server.version)
        return TrainResult(
            name=self._config.name,
            run_id=self._run_id,
            address=self._tracker.address(),
            checkpoint=self._saving.path or "",
            digest=digest({**self._server.pull().params, **self._server.buffers()}),
            steps=self._server.version,
            train_s=self._train_s,
            tasks_per_s=self._tasks / self._train_s if self._train_s else 0.0,
            scores=tuple(scores),
            protocol=self._protocol,
            pictures=pictures,
            evaluations=tuple(self._evaluations),
            counts=self._incidents.counts(),
            tested=tested.path or "",
            tested_step=tested.step,
            stopped=self._stop_reason(),
            metrics=self._metrics,
        )

    @contextlib.contextmanager
    def _closing_cluster(self) -> Iterator[None]:
        """A block that needs no workers: a cluster takes a second or two to stop, mostly waiting."""
        if self._config.runtime.executor != "ray":
            yield
            return
        closing = threading.Thread(target=self._executor.close, name="distmeta-closing-cluster")
        closing.start()
        try:
            yield
        finally:
            closing.join()

    def _is_over(self) -> bool:
        train = self._config.train
        spent = train.budget_s is not None and self._train_s >= train.budget_s
        return self._server.version >= train.steps or spent or self._stop_reason() is not None

    def _stop_reason(self) -> str | None:
        """Why the run ends before its last step; None if it does not, or for its budget."""
        if self._server.version >= self._config.train.steps:
            return None
        if self._selection.exhausted:
            return f"no better evaluation than step {self._selection.best_step} in {self._selection.waited} evaluations"
        return self._callbacks.reason

    def _save_stopped(self, stopped: Stopped) -> None:
        """Save what has been trained, unless a step was interrupted in the middle: then the last checkpoint serves."""
        with self._guard.shielded():
            if self._saving.unsaved and stopped.at_check:
                self._saving.save()
            self._incidents.flush(self._server.version)

    def _counted(self) -> dict[str, float]:
        """The state of the loop, for a checkpoint."""
        counted = {"train_s": self._train_s, "tasks": float(self._tasks)}
        return {**counted, **self._incidents.progress(), **self._selection.progress()}

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
            self._tracker.log(0, {"system/engine_choice_s": choice.took_s})
        self._config = self._saving.config = config.model_copy(update={"engine": engine})
        return Work(UPDATE, engine)

    def _step(self) -> None:
        """One outer step, and what is due after it."""
        started = time.perf_counter()
        step = self._procedure.step(self._work)
        elapsed = time.perf_counter() - started
        self._train_s += elapsed
        self._tasks += step.tasks
        self._rates.add(step.results, elapsed, step.tasks, self._executor.num_workers)
        self._watch.add(step.results, elapsed, step.tasks)
        self._after(step.record)
        self._watch.show_if_due(step.record.version)

    def _after(self, record: StepRecord) -> None:
        config, step = self._config, record.version
        self._progress.update(step, {**record.metrics, **self._rates.metrics()})
        self._incidents.flush(step)
        self._saving.unsaved = True
        self._callbacks.on_step(step, {**record.metrics, **record.outer})
        last = self._is_over()
        logs = step % config.train.log_every == 0 or last or step == 1
        if logs:
            self._log(record)
        score, every = None, config.evaluation.every
        if every and (step % every == 0 or last):
            score = self._validate(step)
            if self._is_over() and not logs:
                self._log(record)
        if step % config.checkpoint.every == 0 or last or score is not None or self._saving.overdue:
            self._saving.save(score)

    def _log(self, record: StepRecord) -> None:
        metrics = {f"train/{name}": value for name, value in record.metrics.items()}
        metrics |= {f"outer.{name}": value for name, value in record.outer.items()}
        metrics |= {f"system/{name}": value for name, value in {**self._rates.metrics(), **process_metrics()}.items()}
        metrics |= {"system/train_s": self._train_s, "system/workers": float(self._executor.num_workers)}
        counts = {**self._incidents.counts(), "checkpoint_failures": self._saving.failures}
        metrics |= {f"system/{name}": float(count) for name, count in counts.items()}
        self._record(record.version, metrics)
        self._rates = Rates()

    def _record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics, and keep those of training and evaluations for the result."""
        self._tracker.log(step, metrics)
        kept = {name: value for name, value in metrics.items() if not name.startswith("system/")}
        self._metrics.setdefault(step, {}).update(kept)

    def _validate(self, step: int) -> float:
        """Evaluate during training; returns the score that decides about the best checkpoint (higher is better)."""
        evaluation = self._config.evaluation
        scores = self._evaluate(evaluation.split, evaluation.tasks, step, self._evaluated())
        self._record(step, {**_flat(evaluation.split, scores), "system/train_s": self._train_s})
        self._evaluations.append(Evaluation(step, self._train_s, tuple(scores)))
        score = headline(scores, self._protocol)
        self._progress.note(
            f"step {step}: {evaluation.split} {score.metric} {score.mean[0]:.4f} -> {score.mean[-1]:.4f} "
            f"+- {score.interval[-1]:.4f} after {self._train_s:.0f} s of training"
        )
        self._callbacks.on_evaluation(step, scores)
        value = score.mean[-1] if score.metric in HIGHER_IS_BETTER else -score.mean[-1]
        # Selecting by the tasks of the final test would overfit to them.
        if evaluation.split == "val" and self._selection.add(step, value):
            self._selection.best = Evaluated(step, self._evaluated(), None)
        return value

    def _choose_tested(self) -> Evaluated:
        """The meta-parameters to test and to keep as the model: the best by validation, or else the last."""
        assert self._saving.path is not None
        if reason := self._stop_reason():
            self._progress.note(f"stopped after step {self._server.version}: {reason}")
        best, version = self._selection.best, self._server.version
        if best is None or best.step == version:
            return Evaluated(version, self._evaluated(), self._saving.path)
        self._progress.note(
            f"tested and kept as the model: step {best.step}, the best on 'val', not the last ({version})"
        )
        return best if best.path is not None else replace(best, path=self._saving.path)

    def _final_scores(self, tested: Evaluated) -> list[Score]:
        num_tasks = self._config.evaluation.final_tasks
        if not num_tasks:
            return []
        scores = self._evaluate("test", num_tasks, tested.step, tested.params)
        self._record(self._server.version, {**_flat("final_test", scores, "."), "final_test.step": float(tested.step)})
        return scores

    def _keep(self, tested: Evaluated, scores: Sequence[Score]) -> tuple[str, ...]:
        """Draw pictures, log the model and print the table; returns the paths of local pictures."""
        assert tested.path is not None
        config = self._config
        with local_folder(tested.path) as checkpoint, paused_collector():
            if config.tracking.model:  # first: it is sent while pictures are drawn
                self._tracker.model(checkpoint, config.name)
            folder = checkpoint.parent / "pictures" if str(checkpoint) in tested.path else None
            kept = keep_pictures(self._program, tested.params, scores, self._protocol, self._tracker, folder)
        self._progress.table(f"{config.name}: unseen test tasks", scores)
        return tuple(str(picture) for picture in kept)

    def _evaluated(self) -> Params:
        """What is evaluated: the averaged meta-parameters, with the running statistics of the network."""
        return {**self._server.averaged(), **self._server.buffers()}

    def _evaluate(self, split: str, tasks: int, step: int, params: Params) -> list[Score]:
        config = self._config
        self._procedure.pause()
        shards = self._program.source.shards(split, 0, tasks, config.runtime.shard_size)
        # The average differs from the parameters of this version: a number of its own tells workers so.
        snapshot = Snapshot(-1 - step, params)
        return evaluate_shards(self._executor, config.engine, snapshot, shards)


def _flat(prefix: str, scores: Sequence[Score], separator: str = "/") -> dict[str, float]:
    """Metrics by name. MLflow's page makes sections of names with a `/`, in their order; the others come last."""
    metrics: dict[str, float] = {}
    for score in scores:
        name = separator.join((prefix, score.protocol, score.metric))
        metrics |= {f"{name}_before": score.mean[0], name: score.mean[-1], f"{name}_ci95": score.interval[-1]}
    return metrics
