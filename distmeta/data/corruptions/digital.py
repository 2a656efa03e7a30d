"""Contrast, elastic transforms, coarse pixels and JPEG.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.data.corruptions.geometry import gaussian_blur, sample

Floats = npt.NDArray[np.float64]


def contrast(x: Floats, severity: int, seeds: Uint64) -> Floats:
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = x.mean((2, 3), keepdims=True)
    faint: Floats = (x - means) * factor + means
    return faint


def elastic_transform(x: Floats, severity: int, seeds: Uint64) -> Floats:
    """A random affine map of three points, then displacements that are smooth in space."""
    height, width = x.shape[-2:]
    side = min(height, width)
    shares = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    strength, sigma, reach = (side * share for share in shares[severity - 1])
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    moved = sample(x, *_affine(rows, columns, side, reach, seeds), "reflect")
    drawn = 2 * seeding.uniform(seeds, "elastic_transform", 2 * height * width) - 1
    shifts = strength * gaussian_blur(drawn.reshape(-1, 2, height, width), sigma, truncate=3.0, border="symmetric")
    return sample(moved, rows + shifts[:, 1], columns + shifts[:, 0], "symmetric")


def _affine(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], side: int, reach: float, seeds: Uint64
) -> tuple[Floats, Floats]:
    """Where each pixel comes from, if three points around the middle are moved by up to `reach`: [N, H, W] each."""
    middle, square = side // 2, side // 3
    points = np.array(
        [
            [middle + square, middle + square],
            [middle + square, middle - square],
            [middle - square, middle - square],
        ],
        dtype=np.float64,
    )
    moves = reach * (2 * seeding.uniform(seeds, "elastic_transform affine", 6).reshape(-1, 3, 2) - 1)
    moved = np.concatenate((points + moves, np.ones((len(seeds), 3, 1))), axis=2)
    sources = np.linalg.solve(moved, np.broadcast_to(points, (len(seeds), 3, 2)))  # [N, 3, 2]: x and y of the source
    places = np.stack((columns, rows, np.ones_like(rows)), axis=-1).astype(np.float64)
    found = np.einsum("hwk,nkd->nhwd", places, sources)
    return found[..., 1], found[..., 0]


def pixelate(x: Floats, severity: int, seeds: Uint64) -> Floats:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]

    def coarse(image: Image.Image) -> Image.Image:
        small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

    return _each(x, coarse)


def jpeg_compression(x: Floats, severity: int, seeds: Uint64) -> Floats:
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(x, compressed)


def _each(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Images that are changed one by one."""
    pixels = np.rint(x * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    changed = [
        np.asarray(change(Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each))) for each in pixels
    ]
    result: Floats = np.stack(changed).reshape(pixels.shape).transpose(0, 3, 1, 2) / 255.0
    return result
