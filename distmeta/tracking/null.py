"""A tracker that records nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from distmeta.tracking.base import MetricPoint, RunStatus, Tracker


class NullTracker(Tracker):
    """The tracker of `tracking.kind = none`."""

    @override
    def start(
        self,
        name: str,
        config: Mapping[str, object],
        resume: str | None,
        pending: Sequence[MetricPoint] = (),
        tags: Mapping[str, str] | None = None,
    ) -> str:
        return ""

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    @override
    def pending(self) -> list[MetricPoint]:
        return []

    @override
    def text(self, content: str, path: str) -> None:
        pass

    @override
    def artifact(self, path: Path, folder: str) -> None:
        pass

    @override
    def model(self, checkpoint: Path, name: str) -> None:
        pass

    @override
    def address(self) -> str | None:
        return None

    @override
    def close(self, status: RunStatus = "FINISHED") -> None:
        pass
