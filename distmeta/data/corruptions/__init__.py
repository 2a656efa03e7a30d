"""Corruptions of images: the 15 types and 5 severities of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv 1903.12261).

Definitions and parameters are those of the authors' `make_cifar_c.py` for 32x32 pixels, for many images at once. All
random draws of an image come from its own seed, so that an image has the same corruption in every batch.

Deviations:

- Frost is drawn (`weather.frost`); theirs are crops of five photographs.
- Motion blur follows ImageMagick's definition, with weights below 1e-6 left out.
- Images of other sizes than 32x32 have the same parameters in pixels; those of elastic transforms grow with the side.

As in the published images, glass blur copies neighbouring pixels where it is said to swap them, and values are cut to
whole numbers.

Shapes: N images, C channels (1 or 3), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from distmeta.core.seeding import Uint64
from distmeta.data.corruptions import blur, digital, noise, weather

SEVERITIES = range(1, 6)
_BLOCK = 256
"""Images that are corrupted together."""

Floats = npt.NDArray[np.float64]
Corruption = Callable[[Floats, int, Uint64], Floats]

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""(images [N, C, H, W] from 0 to 1, severity, seeds [N]) -> images, by name, in the order of the paper."""


def corrupt(images: npt.NDArray[np.uint8], name: str, severity: int, seeds: Uint64) -> npt.NDArray[np.uint8]:
    """Corrupt images.

    Args:
        images: uint8 [N, C, H, W].
        name: A key of `CORRUPTIONS`.
        severity: 1 to 5.
        seeds: [N] a seed for each image.

    Returns:
        uint8 [N, C, H, W].
    """
    assert severity in SEVERITIES, severity
    corrupted = np.empty_like(images)
    for start in range(0, len(images), _BLOCK):
        rows = slice(start, start + _BLOCK)
        values = CORRUPTIONS[name](images[rows] / 255.0, severity, seeds[rows])
        # A value that is whole but for rounding keeps its number.
        corrupted[rows] = (np.clip(values, 0.0, 1.0) * 255.0 + 1e-6).astype(np.uint8)
    return corrupted
