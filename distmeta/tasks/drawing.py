"""Procedurally drawn characters: a drawing is a pure function of a class seed and a drawer seed.

A character has two to four strokes. Each is a line, a hook or a loop, and most start at the stroke before, as in the
alphabets of Omniglot (Lake, Salakhutdinov & Tenenbaum 2015). A drawer adds noise to the control points and to the
position of each stroke, applies an affine transform to the whole, and has a pen width. Rendering splats points along
the strokes bilinearly, blurs them by the pen and maps the density to ink, 1 on a background of 0.

Shapes: I images, S strokes, K control points of a stroke, P points along a stroke, H side of an image in pixels.
Characters live in the square [-1, 1] x [-1, 1], of which the image shows [-1.35, 1.35].
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from distmeta.core.seeding import Uint64, normal, uniform

Floats = npt.NDArray[np.float64]

MAX_STROKES = 4
CONTROL_POINTS = 6
CURVE_POINTS = 32
_STROKE_SHARES = (0.4, 0.8)  # cumulative probabilities of two and of three strokes; the rest has four
_VIEW = 1.35
_PEN = 0.022  # standard deviation of the pen's profile, as a share of the image's side


def draw(classes: Uint64, drawers: Uint64, size: int, jitter: float = 1.0) -> npt.NDArray[np.float32]:
    """Draw I characters.

    Args:
        classes: [I] seeds of the characters.
        drawers: [I] seeds of the drawers.
        size: H, side of the images in pixels.
        jitter: Scale of all differences between drawers; with 0 all drawings of a class are equal.

    Returns:
        [I, H, H] ink between 0 and 1.
    """
    strokes, present = characters(classes)
    strokes = _transform(_perturb(strokes, drawers, jitter), drawers, jitter)
    return _render(_basis() @ strokes, present, drawers, size, jitter)


def characters(classes: Uint64) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Strokes of I characters, before the variation between drawers.

    Args:
        classes: [I] seeds.

    Returns:
        Control points [I, S, K, 2], and whether each stroke exists [I, S].
    """
    num_images = len(classes)
    present = np.arange(MAX_STROKES) < 2 + np.searchsorted(_STROKE_SHARES, uniform(classes, "count", 1))
    # Squaring makes most strokes nearly straight and some of them hooks or loops; those are longer, to stay open.
    sides = 2.0 * uniform(classes, "turn", MAX_STROKES) - 1.0
    turns = 2.0 * math.pi * sides * np.abs(sides)
    lengths = (0.5 + uniform(classes, "length", MAX_STROKES)) * (1.0 + 0.25 * np.abs(turns))
    # Each stroke starts at 40 to 140 degrees from the one before, so that they do not overlap.
    angles = math.radians(40.0) + math.radians(100.0) * uniform(classes, "heading", MAX_STROKES)
    angles[:, 0] *= 2.0 * math.pi / math.radians(140.0)
    headings = np.cumsum(angles * np.where(uniform(classes, "side", MAX_STROKES) < 0.5, -1.0, 1.0), axis=1)
    wobble = 0.2 * normal(classes, "wobble", MAX_STROKES * (CONTROL_POINTS - 1)).reshape(num_images, MAX_STROKES, -1)
    course = headings[..., None] + turns[..., None] * np.linspace(0.0, 1.0, CONTROL_POINTS - 1) + wobble
    steps = np.stack([np.cos(course), np.sin(course)], axis=-1) * (lengths / (CONTROL_POINTS - 1))[..., None, None]
    strokes = np.zeros((num_images, MAX_STROKES, CONTROL_POINTS, 2))
    strokes[:, :, 1:] = np.cumsum(steps, axis=2)
    _connect(strokes, classes)
    return _normalize(strokes, present), present


def _connect(strokes: Floats, classes: Uint64) -> None:
    """Move each stroke, in place, to a control point of the stroke before, or to a random point near the middle."""
    rows = np.arange(len(strokes))
    joined = uniform(classes, "joined", MAX_STROKES) < 0.65
    joints = (uniform(classes, "joint", 2 * MAX_STROKES) * CONTROL_POINTS).astype(np.int64).reshape(-1, MAX_STROKES, 2)
    free = (1.6 * uniform(classes, "free", 2 * MAX_STROKES) - 0.8).reshape(-1, MAX_STROKES, 2)
    strokes[:, 0] -= strokes[:, 0].mean(axis=1, keepdims=True)
    for stroke in range(1, MAX_STROKES):
        anchor = strokes[rows, stroke, joints[:, stroke, 0] * joined[:, stroke]]
        joint = strokes[rows, stroke - 1, joints[:, stroke, 1]]
        target = np.where(joined[:, stroke, None], joint, free[:, stroke])
        strokes[:, stroke] += (target - anchor)[:, None]


def _perturb(strokes: Floats, drawers: Uint64, jitter: float) -> Floats:
    """Add the drawer's noise to every control point, and shift every stroke."""
    shape = strokes.shape
    noise = normal(drawers, "control points", math.prod(shape[1:])).reshape(shape)
    shift = normal(drawers, "strokes", 2 * MAX_STROKES).reshape(shape[0], MAX_STROKES, 1, 2)
    return strokes + jitter * (0.07 * noise + 0.07 * shift)


def _normalize(strokes: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """Scale each character to the square, half way (geometrically) between keeping its aspect ratio and filling it."""
    exists = present[:, :, None, None]
    low = np.where(exists, strokes, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(exists, strokes, -np.inf).max(axis=(1, 2), keepdims=True)
    sides = high - low
    longest = sides.max(axis=-1, keepdims=True)
    # A character that is a straight line has a side near 0, which must not be stretched.
    scale = 2.0 / np.sqrt(np.maximum(sides, 0.1 * longest) * longest)
    normalized: Floats = (strokes - 0.5 * (low + high)) * scale
    return normalized


def _transform(strokes: Floats, drawers: Uint64, jitter: float) -> Floats:
    """Apply the drawer's affine transform: rotation, slant, stretch and shift."""
    turn, slant, stretch_x, stretch_y, shift_x, shift_y = jitter * normal(drawers, "placement", 6).T
    cos, sin = np.cos(0.10 * turn), np.sin(0.10 * turn)
    scale_x, scale_y = np.exp(0.10 * stretch_x - 0.05), np.exp(0.10 * stretch_y - 0.05)
    matrix = np.stack([scale_x * cos, scale_x * (0.15 * slant * cos - sin), scale_y * sin, scale_y * cos], axis=-1)
    shift = 0.10 * np.stack([shift_x, shift_y], axis=-1)
    transformed: Floats = strokes @ matrix.reshape(-1, 1, 2, 2).swapaxes(-1, -2) + shift[:, None, None]
    return transformed


def _render(
    curves: Floats, present: npt.NDArray[np.bool_], drawers: Uint64, size: int, jitter: float
) -> npt.NDArray[np.float32]:
    """Render the curves [I, S, P, 2] of the strokes in `present`: [I, H, H]."""
    num_images = len(curves)
    pixels = np.clip((curves / _VIEW + 1.0) * (0.5 * size) - 0.5, 0.0, size - 1.001)
    # Weight each point by the length of curve around it, so that ink does not depend on the parametrisation.
    steps = np.sqrt(np.square(np.diff(pixels, axis=2)).sum(axis=-1))
    ink = 0.5 * (np.pad(steps, ((0, 0), (0, 0), (1, 0))) + np.pad(steps, ((0, 0), (0, 0), (0, 1)))) * present[..., None]
    corner = pixels.astype(np.int64)
    fraction = pixels - corner
    base = (np.arange(num_images)[:, None, None] * size + corner[..., 1]) * size + corner[..., 0]
    x, y = fraction[..., 0], fraction[..., 1]
    cells = np.stack([base, base + 1, base + size, base + size + 1])
    shares = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y]) * ink
    canvas = np.bincount(cells.ravel(), weights=shares.ravel(), minlength=num_images * size * size)
    canvas = canvas.reshape(num_images, size, size).astype(np.float32)
    # Below half a pixel the pen's profile would be undersampled.
    width = np.maximum(_PEN * size * np.exp(0.2 * jitter * normal(drawers, "pen", 1)), 0.5)
    blur = _blur(width[:, 0], size)
    # The blurred profile of a straight line peaks at 1 / (sqrt(2 pi) width); scale it to saturate in the middle half.
    density = blur @ canvas @ blur.swapaxes(-1, -2) * (math.sqrt(2.0 * math.pi) * width[..., None]).astype(np.float32)
    ink_images: npt.NDArray[np.float32] = np.clip(1.6 * density - 0.25, 0.0, 1.0, dtype=np.float32)
    return ink_images


def _blur(width: Floats, size: int) -> npt.NDArray[np.float32]:
    """Gaussian blur matrices [I, H, H] of standard deviations `width` [I] in pixels."""
    profile = np.exp(-0.5 * np.square(np.arange(size) / width[:, None])) / (math.sqrt(2.0 * math.pi) * width[:, None])
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return profile.astype(np.float32)[:, distance]


@functools.cache
def _basis() -> Floats:
    """Basis [P, K] of a uniform cubic B-spline that starts and ends at its end points, which are repeated."""
    t = np.linspace(0.0, 1.0, CURVE_POINTS) * (CONTROL_POINTS + 1)
    segment = np.minimum(t.astype(np.int64), CONTROL_POINTS)
    u = t - segment
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]) / 6.0
    basis = np.zeros((CURVE_POINTS, CONTROL_POINTS))
    for offset in range(4):
        point = np.clip(segment + offset - 2, 0, CONTROL_POINTS - 1)
        np.add.at(basis, (np.arange(CURVE_POINTS), point), weights[offset])
    return basis
