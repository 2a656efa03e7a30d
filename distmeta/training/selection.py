"""Selection by validation: which of the evaluated meta-parameters are the best, and for how long there were no better.

The state goes into each checkpoint's progress, whose numbers are not negative, so that a resumed run decides as one
that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distmeta.core.types import Params

_STEP, _WAITED, _POSITIVE, _NEGATIVE = "best/step", "best/waited", "best/score", "best/minus_score"


@dataclass(frozen=True)
class Evaluated:
    """Meta-parameters that were evaluated.

    Attributes:
        step: Outer steps made.
        params: The (averaged) meta-parameters, with the running statistics of the network.
        path: Their checkpoint; None if it could not be saved.
    """

    step: int
    params: Params
    path: str | None


class Selection:
    """Follows the scores of a run's evaluations; a higher score is better, and of equal ones the earliest is the best.

    Attributes:
        best: The best so far; None before the first evaluation, or if its checkpoint is gone when a run is resumed.
        best_step: Its step; None before the first evaluation.
        waited: Evaluations since then.

    Args:
        patience: `train.patience`.
        before: Progress of the checkpoint that the run is resumed from.
    """

    def __init__(self, patience: int | None, before: Mapping[str, float]) -> None:
        self._patience = patience
        self.best: Evaluated | None = None
        self.best_step = int(before[_STEP]) if _STEP in before else None
        self.waited = int(before.get(_WAITED, 0))
        self._score = before.get(_POSITIVE, -before[_NEGATIVE] if _NEGATIVE in before else -math.inf)

    def add(self, step: int, score: float) -> bool:
        """Count an evaluation; returns whether it is the best so far. A score that is not finite never is."""
        if not math.isfinite(score) or score <= self._score:
            self.waited += 1
            return False
        self.best_step, self.waited, self._score = step, 0, score
        return True

    @property
    def exhausted(self) -> bool:
        """Whether there was no better score for as many evaluations as `train.patience` allows."""
        return self._patience is not None and self.waited >= self._patience

    def progress(self) -> dict[str, float]:
        """The state, for a checkpoint; empty before the first evaluation."""
        if self.best_step is None:
            return {_WAITED: float(self.waited)} if self.waited else {}
        score = {_POSITIVE: self._score} if self._score >= 0.0 else {_NEGATIVE: -self._score}
        return {_STEP: float(self.best_step), _WAITED: float(self.waited), **score}
