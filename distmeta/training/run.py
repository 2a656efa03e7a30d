"""A run from its start, or its last checkpoint, to its end.

    snapshot = server.pull()
    shards   = source.specs("train", step) cut in fixed shards
    executor.map(snapshot, shards)  ->  server.push(report)  ...  server.step()     (distmeta.training.steps)
    now and then: evaluate, log, checkpoint

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
from distmeta.core.errors import DistmetaError
from distmeta.core.tensors import digest
from distmeta.core.types import Params, Snapshot
from distmeta.engine.auto import Choice
from distmeta.methods.build import protocol_of
from distmeta.program.program import CHOOSE, UPDATE, MetaProgram, MetaRecipe, kind_of
from distmeta.program.scoring import Score, headline
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.runtime.memory import keep_freed_memory
from distmeta.server import Server, StepRecord
from distmeta.server.outer import check_optimizer
from distmeta.tracking import build_tracker
from distmeta.tracking.base import Tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import process_metrics
from distmeta.training.evaluate import evaluate_shards, make_shards
from distmeta.training.pictures import keep_pictures, local_folder
from distmeta.training.rates import Window
from distmeta.training.record import Record
from distmeta.training.result import Evaluation, TrainResult
from distmeta.training.steps import Asynchronous, build_server, build_steps


def train(config: RunConfig, *, resume: bool | Literal["auto"] = False, quiet: bool = False) -> TrainResult:
    """Run a configuration to its end.

    Args:
        config: The run.
        resume: Go on from the newest checkpoint of the run of this name; `auto`: if it has one, and start otherwise.
        quiet: Write for people to standard error instead of standard output.

    Raises:
        UserError: The configuration cannot work, or there is nothing to resume.
        WorkerError: A shard could not be computed.
    """
    # The driver shares its cores with the workers: threads of its own that wait for each other would be in their way.
    threads = torch.get_num_threads()
    torch.set_num_threads(config.runtime.threads_per_worker)
    keep_freed_memory()
    try:
        return _train(config, resume, quiet)
    finally:
        torch.set_num_threads(threads)


def _train(config: RunConfig, resume: bool | Literal["auto"], quiet: bool) -> TrainResult:
    program = MetaProgram(config)
    params = program.algorithm.learner.init(config.seed)
    check_optimizer(config.outer)
    size = sum(tensor.nbytes for tensor in params.values())
    found = checkpoints.resumable(config) if resume is True or (resume and _has_checkpoint(config)) else None
    with contextlib.ExitStack() as stack:
        executor = build_executor(config.runtime, MetaRecipe.of(config), config.outer.compression, size)
        stack.callback(executor.close)
        server = build_server(config, params, stack)
        if found is not None:
            server.load_state_dict(found.state)
        if found is None:
            if resume and _has_checkpoint(config):
                raise DistmetaError(
                    f"checkpoints of '{config.name}' have appeared while it was about to start anew: their store may "
                    "have been away; start it again, and it goes on from them"
                )
            checkpoints.retire(config.checkpoint.path, config.name)
            checkpoints.probe(config)
        tracker = build_tracker(config.tracking)
        pending = checkpoints.pending(found.path) if found else ()
        resumed = found.run_id if found else None
        run_id = tracker.start(config.name, config.model_dump(mode="json"), resumed, pending) or None
        stack.push(lambda kind, error, trace: tracker.close(failed=kind is not None))
        return _Run(config, program, server, executor, tracker, run_id, quiet, found).go()


def _has_checkpoint(config: RunConfig) -> bool:
    return checkpoints.latest(config.checkpoint.path, config.name) is not None


class _Run:
    """The state of the driver's loop."""

    def __init__(
        self,
        config: RunConfig,
        program: MetaProgram,
        server: Server,
        executor: Executor,
        tracker: Tracker,
        run_id: str | None,
        quiet: bool,
        found: checkpoints.Checkpoint | None,
    ) -> None:
        self._config, self._program, self._server = config, program, server
        self._executor, self._tracker, self._run_id, self._found = executor, tracker, run_id, found
        before = found.progress if found else {}
        self._train_s, self._tasks = before.get("train_s", 0.0), int(before.get("tasks", 0))
        self._saved = found.path if found else None
        self._protocol = protocol_of(config)
        self._progress = Progress(config.train.steps, name=config.name, quiet=quiet)
        self._record = Record(executor, tracker, self._progress, server.version, before)
        self._steps = build_steps(config, program.source, server, executor)
        self._saver, self._unsaved = checkpoints.Saver(), False
        self._window = Window()
        self._evaluations: list[Evaluation] = []
        self._pictures: list[str] = []

    def go(self) -> TrainResult:
        """Train, evaluate, keep; from the checkpoint on that was found, if any."""
        config, budget = self._config, self._config.train.budget_s
        if self._run_id is not None:
            self._progress.note(f"mlflow  {self._tracker.address()}")
        if self._found is None:
            self._save(None)  # a run that is interrupted before its first checkpoint is due is gone on with as well
        else:
            self._executor.counts["resumes"] += 1
        self._executor.ready()
        self._fix_engine()
        with self._progress:
            while self._server.version < config.train.steps and (budget is None or self._train_s < budget):
                self._step()
        self._saved = self._saver.final(lambda: self._write(None)) if self._unsaved else self._saved
        scores = self._final()
        self._record.note(self._server.version)
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
            pictures=tuple(self._pictures),
            evaluations=tuple(self._evaluations),
            counts=self._record.counts(),
        )

    def _fix_engine(self) -> None:
        """Settle how shards are computed, for all workers and the whole run: `auto` asks one worker to try."""
        engine = self._config.engine
        if self._found is not None and self._found.config.engine.strategy != "auto":
            engine = self._found.config.engine
        elif engine.strategy == "auto":
            config = self._config
            shards = make_shards(
                self._program.source, "train", 0, config.train.tasks_per_step, config.runtime.shard_size
            )
            [result] = self._executor.map(kind_of(CHOOSE, engine), self._server.pull(), shards[:1])
            choice: Choice = result.value
            engine = choice.apply(engine)
            self._progress.note(choice.reason)
            self._tracker.log(0, {"engine/choice_s": choice.took_s})
        self._config = self._config.model_copy(update={"engine": engine})
        self._kind = kind_of(UPDATE, engine)

    def _step(self) -> None:
        """One outer step, and what is due after it."""
        started = time.perf_counter()
        step = self._steps.step(self._kind)
        elapsed = time.perf_counter() - started
        self._train_s += elapsed
        self._tasks += step.tasks
        self._window.add(step.results, elapsed, step.tasks, self._executor.num_workers)
        self._after(step.record)

    def _after(self, record: StepRecord) -> None:
        config, step = self._config, record.version
        over = config.train.budget_s is not None and self._train_s >= config.train.budget_s
        last = step == config.train.steps or over
        window = self._window.rates()
        self._progress.update(step, {**record.metrics, **window})
        self._record.note(step)
        self._unsaved = True
        if step % config.train.log_every == 0 or last or step == 1:
            metrics = {f"train/{name}": value for name, value in {**record.metrics, **record.outer}.items()}
            metrics |= {f"perf/{name}": value for name, value in {**window, **process_metrics()}.items()}
            metrics |= {"perf/train_s": self._train_s, "perf/workers": float(self._executor.num_workers)}
            counts = {**self._record.counts(), "checkpoint_failures": self._saver.failures}
            metrics |= {f"runtime/{name}": float(count) for name, count in counts.items()}
            self._tracker.log(step, metrics)
            self._window = Window()
        score = None
        every = config.evaluation.every
        if every and (step % every == 0 or last):
            score = self._validate(step)
        if step % config.checkpoint.every == 0 or last or score is not None or self._saver.overdue():
            self._save(score)

    def _validate(self, step: int) -> float:
        evaluation = self._config.evaluation
        scores = self._evaluate(evaluation.split, evaluation.tasks)
        self._tracker.log(step, {**_flat(evaluation.split, scores), "perf/train_s": self._train_s})
        self._evaluations.append(Evaluation(step, self._train_s, tuple(scores)))
        best = headline(scores, self._protocol)
        self._progress.note(
            f"step {step}: {evaluation.split} {best.metric} {best.mean[0]:.4f} -> {best.mean[-1]:.4f} "
            f"+- {best.interval[-1]:.4f} after {self._train_s:.0f} s of training"
        )
        return best.mean[-1] if best.metric == "accuracy" else -best.mean[-1]

    def _final(self) -> list[Score]:
        """Score the test tasks, draw, and keep the model."""
        config, step = self._config, self._server.version
        scores: list[Score] = []
        if config.evaluation.final_tasks:
            scores = self._evaluate("test", config.evaluation.final_tasks)
            self._tracker.log(step, _flat("final_test", scores))
        assert self._saved is not None
        with local_folder(self._saved) as checkpoint:
            folder = checkpoint.parent / "pictures" if str(checkpoint) in self._saved else None
            kept = keep_pictures(self._program, self._averaged(), scores, self._protocol, self._tracker, folder)
            self._pictures = [str(picture) for picture in kept]
            if config.tracking.model:
                self._tracker.model(checkpoint, config.name)
        self._progress.table(f"{config.name}: unseen test tasks", scores)
        return scores

    def _evaluate(self, split: str, tasks: int) -> list[Score]:
        config = self._config
        if isinstance(self._steps, Asynchronous):
            self._steps.pause()
        shards = make_shards(self._program.source, split, 0, tasks, config.runtime.shard_size)
        # The average is not the version's own parameters: a number of its own keeps workers from confusing the two.
        snapshot = Snapshot(-1 - self._server.version, self._averaged())
        return evaluate_shards(self._executor, self._config.engine, snapshot, shards)

    def _averaged(self) -> Params:
        return self._server.averaged()

    def _save(self, score: float | None) -> None:
        """Save a checkpoint; where the store fails, training goes on and it is tried again before long."""
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
            progress={"train_s": self._train_s, "tasks": float(self._tasks), **self._record.progress()},
            pending=self._tracker.pending(),
        )


def _flat(prefix: str, scores: Sequence[Score]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score in scores:
        name = f"{prefix}/{score.protocol}/{score.metric}"
        found |= {f"{name}_before": score.mean[0], name: score.mean[-1], f"{name}_ci95": score.interval[-1]}
    return found
