"""Keep what interactive tasks answered, and answer the same again: other parameters on the same trajectories."""

from __future__ import annotations

from typing_extensions import override

from distmeta.core.types import Act, Batch, Episode, Supply


class Recording(Supply):
    """Asks another supply once for each role and inner step of some tasks; from then on it gives the same answer.

    Several threads may ask, for different tasks.

    Args:
        supply: Who is asked.
    """

    def __init__(self, supply: Supply) -> None:
        self._supply = supply
        self._answers: dict[tuple[tuple[int, ...], str, int], Batch] = {}

    @override
    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        assert tasks.seeds is not None, "interactive tasks draw from their seeds"
        key = tuple(tasks.seeds.tolist()), role, k
        if key not in self._answers:
            self._answers[key] = self._supply(tasks, role, k, act)
        return self._answers[key]
