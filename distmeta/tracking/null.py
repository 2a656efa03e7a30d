"""A tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distmeta.tracking.base import Point, Tracker


class NullTracker(Tracker):
    """For `tracking.kind = none`, and wherever a run is not worth recording."""

    def start(self, name: str, config: Mapping[str, object], resume: str | None, pending: Sequence[Point] = ()) -> str:
        """There is no run, hence no id."""
        return ""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep nothing."""

    def pending(self) -> list[Point]:
        """There is nothing pending."""
        return []

    def tags(self, tags: Mapping[str, str]) -> None:
        """Keep nothing."""

    def text(self, content: str, path: str) -> None:
        """Keep nothing."""

    def artifact(self, path: Path, folder: str) -> None:
        """Keep nothing."""

    def model(self, checkpoint: Path, name: str) -> None:
        """Keep nothing."""

    def address(self) -> str | None:
        """There is nothing to open."""
        return None

    def close(self, *, failed: bool = False) -> None:
        """There is nothing pending."""
