"""Evaluation on unseen tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from distmeta.config.base import Frozen


class EvaluationConfig(Frozen):
    """Evaluation on unseen tasks.

    Attributes:
        every: Outer steps between two evaluations; 0 evaluates only at the end.
        split: Tasks of the evaluations during training, `val` or `test`.
        tasks: Tasks of an evaluation during training.
        final_tasks: Tasks of the evaluation on `test` at the end; 0 leaves it out.
    """

    every: NonNegativeInt = 0
    split: Literal["val", "test"] = "val"
    tasks: PositiveInt = 200
    final_tasks: NonNegativeInt = 600
