"""The outer loop."""

from __future__ import annotations

from distmeta.config.base import Frozen
from distmeta.config.bounds import NonNegativeCount, PositiveCount, Seconds, Tasks, Url


class TrainConfig(Frozen):
    """The outer loop.

    Attributes:
        steps: Outer steps; 0 evaluates the initial meta-parameters.
        tasks_per_step: Number of tasks of one outer step (the meta-batch size).
        budget_s: Stop once the outer steps have taken this many seconds; evaluation and start-up do not count.
        log_every: Outer steps between two logs of the training metrics.
        patience: Stop after this many evaluations on `val` in a row without a better headline score (early stopping);
            None: off.
        init_from: A run's folder or a checkpoint that training starts from: its averaged meta-parameters and running
            statistics. The body must be the same network's; what else has the same name and shape is taken as well
            (heads, learned rates). None: start from `seed` alone.
    """

    steps: NonNegativeCount = 1000
    tasks_per_step: Tasks = 32
    budget_s: Seconds | None = None
    log_every: PositiveCount = 10
    patience: PositiveCount | None = None
    init_from: Url | None = None
