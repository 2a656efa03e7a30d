"""Evaluation on unseen tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from distmeta.config.base import Frozen


class EvaluationConfig(Frozen):
    """Evaluation on unseen tasks.

    Attributes:
        every: Outer steps between evaluations during training; 0: none.
        split: Split of the evaluations during training.
        tasks: Number of tasks of an evaluation during training.
        final_tasks: Number of `test` tasks of the evaluation after training; 0: none.
    """

    every: NonNegativeInt = 0
    split: Literal["val", "test"] = "val"
    tasks: PositiveInt = 200
    final_tasks: NonNegativeInt = 600
