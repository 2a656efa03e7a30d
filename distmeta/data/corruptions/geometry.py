"""What several corruptions share: linear maps along an axis, sampling between pixels, motion, fractal height maps.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from distmeta.core import seeding
from distmeta.core.seeding import Uint64

Floats = npt.NDArray[np.float64]
_LEAST_WEIGHT = 1e-6


def along_both(x: Floats, rows: Floats, columns: Floats) -> Floats:
    """Apply linear maps [H, H] and [W, W] along the last two axes."""
    result: Floats = rows @ x @ columns.T
    return result


def gaussian_blur(x: Floats, sigma: float, truncate: float = 4.0, border: str = "edge") -> Floats:
    """Gaussian blur of [..., H, W]; `border` is a mode of `numpy.pad`."""
    height, width = x.shape[-2:]
    return along_both(x, *(_blur_matrix(side, sigma, truncate, border) for side in (height, width)))


@functools.lru_cache(maxsize=64)
def _blur_matrix(side: int, sigma: float, truncate: float, border: str) -> Floats:
    if sigma == 0.0:
        return np.eye(side)
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    weights /= weights.sum()
    sources = np.pad(np.arange(side), reach, mode=border)  # type: ignore[call-overload]
    matrix = np.zeros((side, side))
    for offset, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(side), sources[offset : offset + side]), weight)
    return matrix


def zoom(x: Floats, factor: float) -> Floats:
    """The middle of [..., H, W] images, enlarged by `factor` to the whole image."""
    height, width = x.shape[-2:]
    return along_both(x, _zoom_matrix(height, factor), _zoom_matrix(width, factor))


@functools.lru_cache(maxsize=256)
def _zoom_matrix(side: int, factor: float) -> Floats:
    crop = math.ceil(side / factor)
    top, enlarged = (side - crop) // 2, round(crop * factor)
    trim = (enlarged - side) // 2
    position = (np.arange(side) + trim) * ((crop - 1) / max(1, enlarged - 1))
    lower = np.clip(position.astype(np.int64), 0, max(0, crop - 2))
    share = np.clip(position - lower, 0.0, 1.0)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side), top + lower), 1 - share)
    np.add.at(matrix, (np.arange(side), np.minimum(top + lower + 1, side - 1)), share)
    return matrix


def sample(x: Floats, rows: Floats, columns: Floats, border: str) -> Floats:
    """Values between pixels, by bilinear interpolation.

    Args:
        x: [N, C, H, W].
        rows: [N, H, W] positions.
        columns: [N, H, W].
        border: `reflect` (the outermost pixel counts once) or `symmetric` (twice).
    """
    height, width = x.shape[-2:]
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    image = np.arange(len(x))[:, None, None]
    planes = x.transpose(0, 2, 3, 1)

    def at(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> Floats:
        inside = _within(row, height, border), _within(column, width, border)
        values: Floats = planes[image, inside[0], inside[1]].transpose(0, 3, 1, 2)
        return values

    upper = (1 - right) * at(top, left) + right * at(top, left + 1)
    lower = (1 - right) * at(top + 1, left) + right * at(top + 1, left + 1)
    return (1 - down) * upper + down * lower


def _within(index: npt.NDArray[np.int64], side: int, border: str) -> npt.NDArray[np.int64]:
    """Positions beyond the border, mirrored into the image."""
    if border == "reflect":
        period = max(1, 2 * side - 2)
        folded = index % period
        return np.minimum(folded, period - folded) if side > 1 else np.zeros_like(index)
    folded = index % (2 * side)
    return np.minimum(folded, 2 * side - 1 - folded)


def motion(x: Floats, radius: int, sigma: float, angles: Floats) -> Floats:
    """ImageMagick's motion blur: half a Gaussian along a direction.

    Args:
        x: [N, C, H, W].
        radius: Half of the length in pixels.
        sigma: Standard deviation in pixels.
        angles: [N] in degrees.
    """
    height, width = x.shape[-2:]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-np.square(steps / sigma) / 2)
    weights /= weights.sum()
    slope = np.stack((np.sin(np.deg2rad(angles)), np.cos(np.deg2rad(angles))))
    image, result = np.arange(len(x))[:, None, None], np.zeros_like(x)
    planes = x.transpose(0, 2, 3, 1)
    for step, weight in zip(steps, weights, strict=True):
        if weight < _LEAST_WEIGHT:
            break
        down, right = np.ceil(step * slope - 0.5).astype(np.int64)
        rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)[:, :, None]
        columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)[:, None, :]
        result += weight * planes[image, rows, columns].transpose(0, 3, 1, 2)
    return result


def plasma(seeds: Uint64, side: int, decay: float, stream: str) -> Floats:
    """Height maps [N, H, H] from 0 to 1 by the diamond-square algorithm; its noise falls by `decay` with each level."""
    size = 1 << max(1, (side - 1).bit_length())
    heights, step, wibble, level = np.zeros((len(seeds), size, size)), size, 100.0, 0

    def noisy(total: Floats, part: str) -> Floats:
        drawn = seeding.uniform(seeds, f"{stream} {level} {part}", total[0].size).reshape(total.shape)
        return total / 4 + wibble * wibble * (2 * drawn - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        sums = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, half::step] = noisy(sums + np.roll(sums, -1, axis=2), "squares")
        middles = heights[:, half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = noisy(middles + np.roll(middles, 1, axis=1) + beside, "rows")
        below = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = noisy(middles + np.roll(middles, 1, axis=2) + below, "columns")
        step, wibble, level = half, wibble / decay, level + 1
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    return heights[:, :side, :side]
