"""Noise of each value by itself.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from distmeta.core import seeding
from distmeta.core.seeding import Uint64

Floats = npt.NDArray[np.float64]
_LEVELS = 256


def gaussian_noise(x: Floats, severity: int, seeds: Uint64) -> Floats:
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + scale * seeding.normal(seeds, "gaussian_noise", x[0].size).reshape(x.shape)


def shot_noise(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """Poisson counts of `photons * x`, by inverting the distribution: values have one of 256 levels."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    levels = np.rint(x * (_LEVELS - 1)).astype(np.int64).ravel()
    drawn = seeding.uniform(seeds, "shot_noise", x[0].size).ravel()
    cumulative = _poisson(photons)
    # The distributions of all levels stand in one ascending row, each moved up by its level.
    counts = np.searchsorted(cumulative.ravel(), drawn + levels, side="right") - levels * cumulative.shape[1]
    noisy: Floats = (counts / photons).reshape(x.shape)
    return noisy


def impulse_noise(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """Salt and pepper, in equal shares."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = seeding.uniform(seeds, "impulse_noise", x[0].size).reshape(x.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn < amount, 1.0, x))


@functools.cache
def _poisson(photons: int) -> Floats:
    """[256, K] cumulative Poisson probabilities of 0 to K - 1 counts, of each level, plus the level.

    The last one of each level is above all uniform numbers.
    """
    rates = photons * np.arange(_LEVELS) / (_LEVELS - 1)
    counts = np.arange(int(photons + 12 * photons**0.5) + 2)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(counts[1:]))))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = counts * np.log(rates[:, None]) - rates[:, None] - log_factorials
    probabilities = np.exp(logs)
    probabilities[0] = counts == 0
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative[:, -1] = 1.0
    ascending: Floats = np.minimum(cumulative, 1.0) + np.arange(_LEVELS)[:, None]
    return ascending
