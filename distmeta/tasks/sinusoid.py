"""Regression on sine waves, the first experiment of MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400, section 5.1).

    y = amplitude * sin(x - phase)

Amplitude and phase of a task are uniform over their ranges; the x of support and query are uniform and independent. All
splits draw from the same distribution, with different seeds.

Shapes: T tasks, N points of one role.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import SinusoidTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import Batch, Episode, TaskSpec, Term
from distmeta.tasks.base import TaskSource
from distmeta.tasks.fewshot import split_and_seeds

Floats = npt.NDArray[np.float64]


class SinusoidSource(TaskSource):
    """One sine wave per task. Inputs and targets are [T, N, 1].

    Args:
        config: Numbers of points, and ranges.
        seed: The run's seed.
        dtype: Type of inputs and targets.

    Raises:
        UserError: A range ends before it starts, or the input range is empty.
    """

    input_shape = (1,)
    num_outputs = 1
    num_train_outputs = 1
    objective = "mse"

    def __init__(self, config: SinusoidTasks, seed: int, dtype: torch.dtype) -> None:
        for field, (low, high) in (("amplitude", config.amplitude), ("phase", config.phase), ("inputs", config.inputs)):
            if high < low or (field == "inputs" and high == low):
                raise UserError(f"({low}, {high})", where=f"tasks.{field}", allowed="(low, high) with low below high")
        self.seed = seed
        self._config = config
        self._dtype = dtype

    @override
    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        split, seeds = split_and_seeds(specs)
        amplitude, phase = waves(self._config, seeds)
        queries = self._config.queries if split == "train" else self._config.eval_queries
        support = self._points(seeds, "support", self._config.shots, amplitude, phase)
        query = self._points(seeds, "query", queries, amplitude, phase)
        return Episode(support, (Term(query, objective="mse", adapted=not (self._config.joint and split == "train")),))

    def _points(self, seeds: Uint64, role: str, count: int, amplitude: Floats, phase: Floats) -> Batch:
        low, high = self._config.inputs
        x = low + (high - low) * seeding.uniform(seeds, role, count)
        y = amplitude * np.sin(x - phase)
        return Batch(*(torch.from_numpy(values[..., None]).to(self._dtype) for values in (x, y)))


def waves(config: SinusoidTasks, seeds: Uint64) -> tuple[Floats, Floats]:
    """Amplitude and phase of each task: [T, 1] each."""
    draws = seeding.uniform(seeds, "wave", 2)
    (amplitude_low, amplitude_high), (phase_low, phase_high) = config.amplitude, config.phase
    amplitude = amplitude_low + (amplitude_high - amplitude_low) * draws[:, :1]
    return amplitude, phase_low + (phase_high - phase_low) * draws[:, 1:]
