"""The outer loop."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from distmeta.config.base import Frozen


class TrainConfig(Frozen):
    """The outer loop.

    Attributes:
        steps: Outer steps.
        tasks_per_step: Number of tasks of one outer step (the meta-batch size).
        budget_s: Stop once the outer steps have taken this many seconds; evaluation and start-up do not count.
        log_every: Outer steps between two logs of the training metrics.
    """

    steps: PositiveInt = 1000
    tasks_per_step: PositiveInt = 32
    budget_s: PositiveFloat | None = None
    log_every: PositiveInt = 10
