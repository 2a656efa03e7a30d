"""Keep what interactive tasks answered, and answer the same again: other parameters on the same trajectories."""

from __future__ import annotations

from typing_extensions import override

from distmeta.core.types import Act, Batch, Episode, Supply

Answers = dict[tuple[str, int], Batch]
"""Examples by role and inner step."""


class Recorder(Supply):
    """Asks another supply and keeps its answers.

    Attributes:
        answers: What has been answered.
    """

    def __init__(self, supply: Supply) -> None:
        self._supply, self.answers = supply, Answers()

    @override
    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        self.answers[role, k] = self._supply(tasks, role, k, act)
        return self.answers[role, k]


class Recorded(Supply):
    """Answers as before, whatever the policy at hand."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @override
    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        return self._answers[role, k]
