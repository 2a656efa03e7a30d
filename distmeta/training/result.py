"""Result of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distmeta.program.scoring import Score, headline
from distmeta.tracking.uris import mask_uri


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

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        names = ("name", "run_id", "address", "checkpoint", "pictures", "digest", "steps", "counts")
        return {
            **{name: getattr(self, name) for name in names},
            "checkpoint": mask_uri(self.checkpoint),
            "train_s": round(self.train_s, 3),
            "tasks_per_s": round(self.tasks_per_s, 2),
            "meta_test": headline(self.scores, self.protocol).to_json() if self.scores else None,
            "scores": [score.to_json() for score in self.scores],
        }
