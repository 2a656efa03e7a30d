"""Where a run can be watched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """One value of one metric.

    Attributes:
        key: The metric's name.
        value: Its value, which may be infinite or not a number.
        time_ms: When it was logged, in milliseconds since 1970.
        step: The outer step.
    """

    key: str
    value: float
    time_ms: int
    step: int


class Tracker(ABC):
    """Records one run. Every call returns quickly; nothing it does changes the run's result."""

    @abstractmethod
    def start(self, name: str, config: Mapping[str, object], resume: str | None, pending: Sequence[Point] = ()) -> str:
        """Open a run, or go on with `resume`; returns the run's id, empty where nothing is kept.

        Args:
            name: The run's name.
            config: The resolved configuration, a JSON object.
            resume: Id of the run to go on with.
            pending: What `pending` told when the checkpoint was written from which the run goes on.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record values at an outer step. A step that the resumed run has already recorded is left as it is."""

    @abstractmethod
    def pending(self) -> list[Point]:
        """What has been logged, and is not known to be kept yet: a checkpoint carries it over a killed driver."""

    @abstractmethod
    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; one that is there is replaced. Secrets are masked."""

    @abstractmethod
    def text(self, content: str, path: str) -> None:
        """Keep a text with the run; a later one of the same path replaces it. Secrets are masked.

        Args:
            content: The text.
            path: Its name within the run, with folders: `workers/worker-3.txt`.
        """

    @abstractmethod
    def artifact(self, path: Path, folder: str) -> None:
        """Keep a file, or a folder with all it holds, with the run."""

    @abstractmethod
    def model(self, checkpoint: Path, name: str) -> None:
        """Keep a checkpoint as a model that adapts and predicts."""

    @abstractmethod
    def address(self) -> str | None:
        """What to open, or to type, to see the run."""

    @abstractmethod
    def close(self, *, failed: bool = False) -> None:
        """Write what is pending and end the run."""
