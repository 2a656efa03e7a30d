"""The outer loop."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from distmeta.config.base import Frozen


class TrainConfig(Frozen):
    """The outer loop.

    Attributes:
        steps: Outer steps.
        tasks_per_step: Tasks of one outer step (the meta-batch).
        budget_s: Stop early once the outer steps have taken this many seconds (evaluation and start-up not counted).
        log_every: Steps between two records of the training metrics.
    """

    steps: PositiveInt = 1000
    tasks_per_step: PositiveInt = 32
    budget_s: PositiveFloat | None = None
    log_every: PositiveInt = 10
