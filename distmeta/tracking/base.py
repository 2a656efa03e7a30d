"""Interface of experiment trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class MetricPoint:
    """A logged value of a metric.

    Attributes:
        key: Name of the metric.
        value: The value, which may be infinite or NaN.
        time_ms: Time of logging, in milliseconds since the epoch.
        step: The outer step.
    """

    key: str
    value: float
    time_ms: int
    step: int


RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words."""


class Tracker(ABC):
    """Records one run. Calls after `start` do not wait for the store, and failures of the store never end the run."""

    def prepare(self) -> None:  # noqa: B027
        """Begin to load the libraries that `start` needs, on another thread. Nothing is opened or made."""

    @abstractmethod
    def start(
        self,
        name: str,
        config: Mapping[str, object],
        resume: str | None,
        pending: Sequence[MetricPoint] = (),
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Create a run, or continue the run `resume`.

        Args:
            name: Name of the run.
            config: The resolved configuration, a JSON object.
            resume: Id of the run to continue.
            pending: Result of `pending` at the checkpoint that the run resumes from.
            tags: Further tags of the run.

        Returns:
            The id of the run; empty if nothing is recorded.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of an outer step. Steps that a resumed run has recorded before are skipped."""

    @abstractmethod
    def pending(self) -> list[MetricPoint]:
        """Logged values that the store has not confirmed. Checkpoints save them, in case the driver is killed."""

    @abstractmethod
    def text(self, content: str, path: str) -> None:
        """Save a text as an artifact; it replaces an earlier one of the same path. Secrets are masked.

        Args:
            content: The text.
            path: Path within the artifacts of the run, e.g. `workers/worker-3.txt`.
        """

    @abstractmethod
    def artifact(self, path: Path, folder: str) -> None:
        """Save a file or folder as an artifact in `folder`."""

    @abstractmethod
    def model(self, checkpoint: Path, name: str) -> None:
        """Save a checkpoint as a model that adapts and predicts."""

    @abstractmethod
    def address(self) -> str | None:
        """URL of the run, with the command that serves it if there is no server; None if nothing is recorded."""

    @abstractmethod
    def close(self, status: RunStatus = "FINISHED") -> None:
        """Write pending values and end the run."""
