"""Blur of neighbouring pixels.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.data.corruptions.geometry import gaussian_blur, motion, zoom

Floats = npt.NDArray[np.float64]
_REACH = 3
"""Pixels from the middle of the kernel of defocus blur to its end."""


def defocus_blur(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """A disk with soft edges."""
    kernel = _disk(*((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1])
    height, width = x.shape[-2:]
    padded = np.pad(x, ((0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="reflect")
    result = np.zeros_like(x)
    for row, column in zip(*np.nonzero(kernel), strict=True):
        result += kernel[row, column] * padded[..., row : row + height, column : column + width]
    return result


@functools.cache
def _disk(radius: float, softness: float) -> Floats:
    places = np.arange(-_REACH, _REACH + 1)
    disk = (np.square(places)[:, None] + np.square(places) <= radius**2).astype(np.float64)
    side = np.exp(-0.5 / softness**2)
    row = np.array([side, 1.0, side]) / (1 + 2 * side)
    smoothed = np.apply_along_axis(np.convolve, 0, disk / disk.sum(), row, mode="same")
    return np.apply_along_axis(np.convolve, 1, smoothed, row, mode="same")


def glass_blur(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """Each pixel takes the value of a neighbour, between two slight blurs."""
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    height, width = x.shape[-2:]
    pixels = np.floor(gaussian_blur(x, sigma) * 255 + 1e-6).transpose(2, 3, 0, 1).copy()  # [H, W, N, C]
    image, count = np.arange(len(x)), 2 * (height - 2 * reach) * (width - 2 * reach)
    for turn in range(rounds):
        drawn = seeding.uniform(seeds, f"glass_blur {turn}", count).T
        moves = (drawn * 2 * reach).astype(np.int64).reshape(-1, 2, len(x)) - reach
        places = [(h, w) for h in range(height - reach, reach, -1) for w in range(width - reach, reach, -1)]
        for (h, w), (right, down) in zip(places, moves, strict=True):
            pixels[h, w] = pixels[h + down, w + right, image]
    return gaussian_blur(pixels.transpose(2, 3, 0, 1) / 255, sigma)


def motion_blur(x: Floats, severity: int, seeds: Uint64) -> Floats:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    return motion(x, radius, sigma, 90 * seeding.uniform(seeds, "motion_blur", 1)[:, 0] - 45)


def zoom_blur(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """The mean of the image and of several enlargements."""
    factors = 1 + 0.01 * np.arange((6, 11, 16, 21, 26)[severity - 1])
    total = x + sum(zoom(x, float(factor)) for factor in factors)
    return total / (len(factors) + 1)
