"""Result of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from distmeta.adapt.load import AdaptableLearner, load
from distmeta.program.scoring import Score, headline
from distmeta.tracking.uris import mask_uri
from distmeta.training.history import history_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Evaluation:
    """Scores during training, after `step` outer steps and `train_s` seconds of training."""

    step: int
    train_s: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class TrainResult:
    """Result of a training run.

    Attributes:
        name: The run's name.
        run_id: The tracker's id; None without tracking.
        address: Where to watch it.
        checkpoint: Path of the last checkpoint.
        digest: sha256 of the meta-parameters.
        steps: Outer steps made.
        train_s: Seconds that the outer steps took (evaluation, start-up and checkpoints left out).
        tasks_per_s: Training tasks per second of `train_s`.
        scores: Evaluation on the test tasks; empty if `evaluation.final_tasks` is 0.
        protocol: The protocol of the headline score.
        pictures: Local PNGs of the adaptation curve and of sample tasks.
        evaluations: Evaluations during training (of this process: a resumed run has those since it was resumed).
        counts: Workers replaced (`restarts`), shards computed again (`retries`), failures of each kind, resumptions of
            the run (`resumes`), ...; over the whole run, resumed or not.
        tested: Path of the checkpoint that `scores` and the logged model are of: the best by validation if
            `evaluation.split` is `val` and there were evaluations, otherwise the last.
        tested_step: Its step.
        stopped: Why the run ended before its last step: `train.patience`, or a callback. None if it did not, or for its
            budget.
        metrics: What was logged, without machine figures: step -> name -> value. Of this process, as `evaluations`.
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
    counts: dict[str, int]
    tested: str = ""
    tested_step: int = 0
    stopped: str | None = None
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def history(self) -> pa.Table:
        """`metrics` as a pyarrow Table (`.to_pandas()` makes a data frame).

        A row for each step: `step`, and a column for each metric (`train/loss`, `val/inductive/accuracy`, ...), null
        where it was not logged.
        """
        return history_table(self.metrics)

    def learner(self, which: Literal["final", "best"] = "final", protocol: str | None = None) -> AdaptableLearner:
        """Load the trained learner.

        Args:
            which: Of the last checkpoint, or of the best one by validation (`tested`).
            protocol: As in `distmeta.load`.
        """
        return load(self.checkpoint if which == "final" else self.tested, protocol=protocol)

    def rows(self) -> list[dict[str, str]]:
        """A table of the final test: one row for each metric and protocol."""
        return [
            {
                "protocol": score.protocol,
                "metric": score.metric,
                "before adaptation": f"{score.mean[0]:.4f}",
                "after": f"{score.mean[-1]:.4f}",
                "95% interval": f"± {score.interval[-1]:.4f}",
            }
            for score in self.scores
        ]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        names = (
            "name",
            "run_id",
            "address",
            "checkpoint",
            "tested",
            "pictures",
            "digest",
            "steps",
            "stopped",
            "counts",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "checkpoint": mask_uri(self.checkpoint),
            "tested": mask_uri(self.tested),
            "train_s": round(self.train_s, 3),
            "tasks_per_s": round(self.tasks_per_s, 2),
            "meta_test": headline(self.scores, self.protocol).to_json() if self.scores else None,
            "scores": [score.to_json() for score in self.scores],
        }
