"""Evaluation on unseen tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distmeta.config.base import Frozen
from distmeta.config.bounds import MAX_TASKS, NonNegativeCount, Tasks


class EvaluationConfig(Frozen):
    """Evaluation on unseen tasks.

    Attributes:
        every: Outer steps between evaluations during training; 0: none.
        split: Split of the evaluations during training. With `val`, the evaluation after training and the logged model
            take the best of the evaluated meta-parameters; otherwise the last.
        tasks: Number of tasks of an evaluation during training.
        final_tasks: Number of `test` tasks of the evaluation after training; 0: none.
        curve: Score the queries after 0 to 10, 20, 50, 100, 200, ... inner steps, and after the last. False: before the
            first and after the last alone, for long phases with many queries.
    """

    every: NonNegativeCount = 0
    split: Literal["val", "test"] = "val"
    tasks: Tasks = 200
    final_tasks: int = Field(600, ge=0, le=MAX_TASKS)
    curve: bool = True
