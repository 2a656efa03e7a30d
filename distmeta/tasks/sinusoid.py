"""Regression on sine waves, the first experiment of MAML (Finn, Abbeel & Levine 2017, arXiv:1703.03400, section 5.1).

    y = amplitude * sin(x - phase)

Amplitude and phase of a task are uniform over their ranges; the x of support and query are uniform and independent. All
splits draw from the same distribution, with different seeds.

Shapes: T tasks, N points of one role.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from distmeta.config.tasks import SinusoidTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch
from distmeta.tasks.base import TaskSource

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
    train_outputs = MappingProxyType({SUPPORT: 1, QUERY: 1})
    objective = "mse"

    def __init__(self, config: SinusoidTasks, seed: int, dtype: torch.dtype) -> None:
        for field, (low, high) in (("amplitude", config.amplitude), ("phase", config.phase), ("inputs", config.inputs)):
            if high < low or (field == "inputs" and high == low):
                raise UserError(f"({low}, {high})", where=f"tasks.{field}", allowed="(low, high) with low below high")
        self.seed = seed
        self._config = config
        self._dtype = dtype

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        amplitude, phase = waves(self._config, seeds)
        queries = self._config.queries if split == "train" else self._config.eval_queries
        counts = {SUPPORT: self._config.shots, QUERY: queries}
        return {role: self._points(seeds, role, counts[role], amplitude, phase) for role in roles}

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
