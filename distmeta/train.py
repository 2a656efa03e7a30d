"""Meta-training: the driver's loop.

    snapshot = server.pull()
    shards   = source.specs("train", step) cut in fixed shards
    executor.map(snapshot, shards)  ->  server.push(report)  ...  server.step()
    now and then: evaluate, log, checkpoint

The result depends on the configuration alone: not on the executor, the number of workers, failures, or resuming.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distmeta import checkpoint as checkpoints
from distmeta.algorithms import protocol_of
from distmeta.artifacts import keep_pictures, local_folder
from distmeta.config import RunConfig
from distmeta.engine.auto import Choice
from distmeta.errors import DistmetaError
from distmeta.evaluate import evaluate_shards, make_shards
from distmeta.program import CHOOSE, UPDATE, MetaProgram, MetaRecipe, kind_of
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor, Result
from distmeta.scoring import Score, headline
from distmeta.server import ParameterServer, StepRecord, Verdict
from distmeta.tensors import digest
from distmeta.tracking import build_tracker
from distmeta.tracking.base import Tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import process_metrics
from distmeta.types import Params, Shard, Snapshot


@dataclass(frozen=True)
class Evaluation:
    """Scores during training, after `step` outer steps and `train_s` seconds of them."""

    step: int
    train_s: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        name: The run's name.
        run_id: The tracker's id; None without tracking.
        address: Where to watch it.
        checkpoint: The last checkpoint.
        digest: sha256 of the meta-parameters.
        steps: Outer steps made.
        train_s: Seconds that the outer steps took (evaluation, start-up and checkpoints left out).
        tasks_per_s: Training tasks per second of `train_s`.
        scores: Evaluation on the test tasks; empty where `evaluation.final_tasks` is 0.
        protocol: The protocol that the run is judged by.
        pictures: Local PNGs of the adaptation curve and of sample tasks.
        evaluations: What was scored on the way (in this process; a resumed run has those since it was resumed).
        restarts, retries: Workers replaced, shards run again.
    """

    name: str
    run_id: str | None
    address: str | None
    checkpoint: str
    digest: str
    steps: int
    train_s: float
    tasks_per_s: float
    scores: tuple[Score, ...]
    protocol: str
    pictures: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    restarts: int
    retries: int

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        names = ("name", "run_id", "address", "checkpoint", "pictures", "digest", "steps", "restarts", "retries")
        return {
            **{name: getattr(self, name) for name in names},
            "train_s": round(self.train_s, 3),
            "tasks_per_s": round(self.tasks_per_s, 2),
            "meta_test": headline(self.scores, self.protocol).to_json() if self.scores else None,
            "scores": [score.to_json() for score in self.scores],
        }


def train(config: RunConfig, *, resume: bool = False, quiet: bool = False) -> TrainResult:
    """Run a configuration to its end.

    Args:
        config: The run.
        resume: Go on from the newest checkpoint of the run of this name.
        quiet: Write for people to standard error instead of standard output.

    Raises:
        UserError: The configuration cannot work, or there is nothing to resume.
        WorkerError: A shard could not be computed.
    """
    # The driver shares its cores with the workers: threads of its own that wait for each other would be in their way.
    threads = torch.get_num_threads()
    torch.set_num_threads(config.runtime.threads_per_worker)
    try:
        return _train(config, resume, quiet)
    finally:
        torch.set_num_threads(threads)


def _train(config: RunConfig, resume: bool, quiet: bool) -> TrainResult:
    program = MetaProgram(config)
    server = ParameterServer(program.algorithm.learner.init(config.seed), config.outer, config.train.steps)
    found = checkpoints.resumable(config) if resume else None
    if found is not None:
        server.load_state_dict(found.state)
    with contextlib.ExitStack() as stack:
        executor = build_executor(config.runtime, MetaRecipe.of(config))
        stack.callback(executor.close)
        if found is None:
            checkpoints.retire(config.checkpoint.path, config.name)
        tracker = build_tracker(config.tracking)
        run_id = tracker.start(config.name, config.model_dump(mode="json"), found.run_id if found else None) or None
        stack.push(lambda kind, error, trace: tracker.close(failed=kind is not None))
        return _Run(config, program, server, executor, tracker, run_id, quiet).go(found)


class _Run:
    """The state of the driver's loop."""

    def __init__(
        self,
        config: RunConfig,
        program: MetaProgram,
        server: ParameterServer,
        executor: Executor,
        tracker: Tracker,
        run_id: str | None,
        quiet: bool,
    ) -> None:
        self._config, self._program, self._server = config, program, server
        self._executor, self._tracker, self._run_id = executor, tracker, run_id
        self._train_s, self._tasks = 0.0, 0
        self._protocol = protocol_of(config)
        self._progress = Progress(config.train.steps, name=config.name, quiet=quiet)
        self._saved: str | None = None
        self._window = _Window()
        self._evaluations: list[Evaluation] = []
        self._pictures: list[str] = []

    def go(self, found: checkpoints.Checkpoint | None) -> TrainResult:
        """Train, evaluate, keep; from `found` on, if there is one."""
        if found is not None:
            self._saved = found.path
            self._train_s, self._tasks = found.progress["train_s"], int(found.progress["tasks"])
        config, budget = self._config, self._config.train.budget_s
        self._executor.ready()
        self._fix_engine(found)
        with self._progress:
            while self._server.version < config.train.steps and (budget is None or self._train_s < budget):
                self._step()
        if self._saved is None:
            self._save(None)
        scores = self._final()
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
            restarts=self._executor.restarts,
            retries=self._executor.retries,
        )

    def _fix_engine(self, found: checkpoints.Checkpoint | None) -> None:
        """Settle how shards are computed, for all workers and the whole run: `auto` asks one worker to try."""
        engine = self._config.engine
        if found is not None:
            engine = found.config.engine
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
        config, started = self._config, time.perf_counter()
        step, count = self._server.version, config.train.tasks_per_step
        shards = make_shards(self._program.source, "train", step, count, config.runtime.shard_size)
        upcoming: Sequence[Shard] = ()
        if step + 1 < config.train.steps:
            upcoming = make_shards(self._program.source, "train", step + 1, count, config.runtime.shard_size)
        results = []
        for result in self._executor.map(self._kind, self._server.pull(), shards, upcoming):
            verdict = self._server.push(result.value)
            if verdict is not Verdict.ACCEPTED:
                raise DistmetaError(_refusal(step, result.shard, verdict))
            results.append(result)
        record = self._server.step(len(shards))
        elapsed = time.perf_counter() - started
        self._train_s += elapsed
        self._tasks += count
        self._window.add(results, elapsed, count, self._executor.num_workers)
        self._after(record)

    def _after(self, record: StepRecord) -> None:
        config, step = self._config, record.version
        over = config.train.budget_s is not None and self._train_s >= config.train.budget_s
        last = step == config.train.steps or over
        window = self._window.rates()
        self._progress.update(step, {**record.metrics, **window})
        if step % config.train.log_every == 0 or last or step == 1:
            metrics = {f"train/{name}": value for name, value in {**record.metrics, **record.outer}.items()}
            metrics |= {f"perf/{name}": value for name, value in {**window, **process_metrics()}.items()}
            metrics |= {"perf/train_s": self._train_s, "perf/workers": float(self._executor.num_workers)}
            metrics |= {"perf/restarts": float(self._executor.restarts), "perf/retries": float(self._executor.retries)}
            self._tracker.log(step, metrics)
            self._window = _Window()
        score = None
        every = config.evaluation.every
        if every and (step % every == 0 or last):
            score = self._validate(step)
        if step % config.checkpoint.every == 0 or last or score is not None:
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
        shards = make_shards(self._program.source, split, 0, tasks, config.runtime.shard_size)
        # The average is not the version's own parameters: a number of its own keeps workers from confusing the two.
        snapshot = Snapshot(-1 - self._server.version, self._averaged())
        return evaluate_shards(self._executor, self._config.engine, snapshot, shards)

    def _averaged(self) -> Params:
        return self._server.averaged()

    def _save(self, score: float | None) -> None:
        self._saved = checkpoints.save(
            self._config,
            self._server.version,
            self._server.state_dict(),
            signature=self._program.source.signature,
            run_id=self._run_id,
            score=score,
            progress={"train_s": self._train_s, "tasks": float(self._tasks)},
        )


class _Window:
    """Rates since the last record."""

    def __init__(self) -> None:
        self._elapsed_s = self._data_wait_s = self._compute_s = self._worker_s = 0.0
        self._tasks = 0

    def add(self, results: Sequence[Result], elapsed_s: float, tasks: int, workers: int) -> None:
        """Count one step."""
        self._elapsed_s += elapsed_s
        self._tasks += tasks
        self._worker_s += elapsed_s * workers
        self._data_wait_s += sum(result.data_wait_s for result in results)
        self._compute_s += sum(result.compute_s for result in results)

    def rates(self) -> dict[str, float]:
        """Tasks per second; shares of the workers' time."""
        return {
            "tasks_per_s": self._tasks / max(self._elapsed_s, 1e-9),
            "data_wait_share": self._data_wait_s / max(self._worker_s, 1e-9),
            "worker_busy_share": self._compute_s / max(self._worker_s, 1e-9),
        }


def _flat(prefix: str, scores: Sequence[Score]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score in scores:
        name = f"{prefix}/{score.protocol}/{score.metric}"
        found |= {f"{name}_before": score.mean[0], name: score.mean[-1], f"{name}_ci95": score.interval[-1]}
    return found


def _refusal(step: int, shard: int, verdict: Verdict) -> str:
    reason = "an entry is infinite or not a number; a lower rate or outer.clip_norm may help"
    return f"step {step}: the update of shard {shard} is {verdict.value}" + (
        f" ({reason})" if verdict is Verdict.NONFINITE else ""
    )
