"""Snow, frost, fog and brightness.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.data.corruptions.geometry import motion, plasma, zoom

Floats = npt.NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114])
_ICE = np.array([0.90, 0.97, 1.0])


def snow(x: Floats, severity: int, seeds: Uint64) -> Floats:
    mean, scale, factor, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    height, width = x.shape[-2:]
    flakes = mean + scale * seeding.normal(seeds, "snow", height * width).reshape(-1, 1, height, width)
    flakes = zoom(flakes, factor)
    flakes = np.floor(np.clip(np.where(flakes < threshold, 0.0, flakes), 0.0, 1.0) * 255) / 255
    angles = 90 * seeding.uniform(seeds, "snow angle", 1)[:, 0] - 135
    layer = motion(flakes, radius, sigma, angles)
    pale = np.maximum(x, _grey(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + layer + np.rot90(layer, 2, (-2, -1))


def frost(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """Ice over the image. It is drawn: bright ridges of a fractal height map, slightly blue."""
    kept, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    side = max(x.shape[-2:])
    heights = plasma(seeds, side, 1.6, "frost")[:, None, : x.shape[-2], : x.shape[-1]]
    ridges = 0.3 + 0.7 * np.square(1 - np.abs(2 * heights - 1))
    frozen: Floats = kept * x + ice * ridges * (_ICE[:, None, None] if x.shape[1] == 3 else 1.0)
    return frozen


def fog(x: Floats, severity: int, seeds: Uint64) -> Floats:
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    brightest = np.maximum(x.max((1, 2, 3), keepdims=True), 1 / 255)
    heights = plasma(seeds, max(x.shape[-2:]), decay, "fog")[:, None, : x.shape[-2], : x.shape[-1]]
    foggy: Floats = (x + amount * heights) * brightest / (brightest + amount)
    return foggy


def brightness(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """More of HSV's value; hue and saturation stay."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.max(1, keepdims=True)
    brighter = np.minimum(value + more, 1.0)
    result: Floats = np.where(value > 0, x * (brighter / np.where(value > 0, value, 1.0)), brighter)
    return result


def _grey(x: Floats) -> Floats:
    return x if x.shape[1] == 1 else np.tensordot(x, _GREY, ((1,), (0,)))[:, None]
