"""Evaluate a checkpoint on unseen tasks, on the same executors that train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint import Checkpoint
from distmeta.checkpoint.reading import Which
from distmeta.config import EngineConfig, RunConfig
from distmeta.config.load import change
from distmeta.config.python import require_trust
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.methods.build import check_params, protocol_of
from distmeta.program.program import EVALUATE, MetaProgram, MetaRecipe
from distmeta.program.scoring import Score, headline, summarise
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.tracking.uris import mask_uri


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a checkpoint.

    Attributes:
        checkpoint: Its path.
        step: Number of outer steps.
        split: Split of the tasks.
        protocol: The protocol that it was trained under, of the headline score.
        scores: Every metric under every protocol.
    """

    checkpoint: str
    step: int
    split: str
    protocol: str
    scores: tuple[Score, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "split": self.split,
            "result": headline(self.scores, self.protocol).to_json(),
            "scores": [score.to_json() for score in self.scores],
        }

    def rows(self) -> list[dict[str, str]]:
        """A table: one row for each metric, protocol and number of inner steps."""
        return [
            {
                "protocol": score.protocol,
                "metric": score.metric,
                "inner steps": str(point),
                "mean": f"{mean:.4f}",
                "95% interval": f"± {half:.4f}",
            }
            for score in self.scores
            for point, mean, half in zip(score.points, score.mean, score.interval, strict=True)
        ]


def evaluate(
    path: str,
    *,
    which: Which = "latest",
    split: str = "test",
    tasks: int = 600,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> EvaluationResult:
    """Score a checkpoint before adaptation and after each inner step.

    Args:
        path: A checkpoint, or a run's folder.
        which: Which checkpoint of the folder.
        split: `train`, `val` or `test`.
        tasks: Number of tasks.
        seed: Seed of the tasks; None takes the run's.
        overrides: Changes of the run's configuration, `field=value` (for example `tasks.shots=5`). Where to compute is
            not taken from the checkpoint: it is this process, unless `runtime.executor=ray` is among them.
        trust_code: Run the code that the checkpoint names: networks, tasks or methods of one's own.

    Raises:
        UserError: There is no intact checkpoint, or the changes do not fit it.
    """
    checkpoint = trusted(path, which, trust_code=trust_code)
    config = change(checkpoint.config, overrides)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    return evaluate_loaded(checkpoint, config, split, tasks)


def trusted(path: str, which: Which, *, trust_code: bool) -> Checkpoint:
    """Load a checkpoint whose code, if it names some, may be run.

    Raises:
        UserError: There is no intact checkpoint, or it names code and `trust_code` is not set.
    """
    checkpoint = checkpoints.load(path, which)
    require_trust(checkpoint.config, mask_uri(checkpoint.path), trusted=trust_code)
    return checkpoint


def evaluate_loaded(checkpoint: Checkpoint, config: RunConfig, split: str, tasks: int) -> EvaluationResult:
    """Score a checkpoint under a configuration that fits it (see `evaluate`)."""
    with workers(checkpoint, config) as (program, executor):
        shards = program.source.shards(split, 0, tasks, config.runtime.shard_size)
        snapshot = Snapshot(checkpoint.step, checkpoint.averaged, checkpoint.buffers)
        scores = evaluate_shards(executor, config.engine, snapshot, shards)
        protocol = protocol_of(program.algorithm)
    return EvaluationResult(checkpoint.path, checkpoint.step, split, protocol, tuple(scores))


@contextmanager
def workers(checkpoint: Checkpoint, config: RunConfig) -> Iterator[tuple[MetaProgram, Executor]]:
    """The program of a configuration and the workers that run it, for the meta-parameters of a checkpoint.

    Raises:
        UserError: The two do not fit.
    """
    program = MetaProgram(config)
    where = mask_uri(checkpoint.path)
    check_params(config, program.source.signature, checkpoint.averaged, checkpoint.buffers, where)
    executor = build_executor(config.runtime, MetaRecipe.of(config), program=program)
    try:
        yield program, executor
    finally:
        executor.close()
        program.close()


def evaluate_shards(
    executor: Executor, engine: EngineConfig, snapshot: Snapshot, shards: Sequence[Shard]
) -> list[Score]:
    """Score shards on the workers and summarise; the order in which results arrive does not matter."""
    values = {result.shard: result.value for result in executor.map(Work(EVALUATE, engine), snapshot, shards)}
    return summarise([values[shard.index] for shard in shards])
