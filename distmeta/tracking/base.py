"""Where a run can be watched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path


class Tracker(ABC):
    """Records one run. Every call returns quickly; nothing it does changes the run's result."""

    @abstractmethod
    def start(self, name: str, config: Mapping[str, object], resume: str | None) -> str:
        """Open a run, or go on with `resume`; returns the run's id, empty where nothing is kept.

        Args:
            name: The run's name.
            config: The resolved configuration, a JSON object.
            resume: Id of the run to go on with.
        """

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record values at an outer step. A step that the resumed run has already recorded is left as it is."""

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
