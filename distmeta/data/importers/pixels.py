"""Images that are arrays: which axis has the channels, and which values are black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from distmeta.core.errors import UserError

_CHANNELS = (1, 3)


def picture(pixels: Any, where: str) -> Image.Image:
    """An array of pixels as an image.

    Args:
        pixels: [H, W], [H, W, C] or [C, H, W] with C of 1 or 3: integers from 0 to 255, floats from 0 to 1, booleans.
        where: Row and column, for messages.

    Raises:
        UserError: Another shape, other values, or channels that may be the first or the last axis.
    """
    try:
        array = np.asarray(pixels)
    except (TypeError, ValueError, RuntimeError) as error:  # e.g. a tensor on a GPU
        raise UserError(f"is no image: {error}", where=where) from error
    if array.ndim not in (2, 3) or not array.size:
        what = f"holds an array of shape {list(array.shape)}"
        raise UserError(what, where=where, allowed="[H, W], [H, W, C] or [C, H, W]")
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if first == last:
            what = f"an image of shape {list(array.shape)} has no axis of 1 or 3 channels"
            if first:
                what = f"an image of shape {list(array.shape)} may have its channels first or last"
            raise UserError(what, where=where, allowed="[H, W], [H, W, C] or [C, H, W] with 1 or 3 channels")
        array = array.transpose(1, 2, 0) if first else array
        array = array[:, :, 0] if array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(_bytes(array, where)))


def _bytes(array: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    most = {"f": 1, "u": 255, "i": 255, "b": 1}.get(array.dtype.kind)
    if most is None:
        allowed = "integers from 0 to 255, floats from 0 to 1, or booleans"
        raise UserError(f"holds pixels of type {array.dtype}", where=where, allowed=allowed)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= most):  # also refuses NaN
        what = f"pixels of type {array.dtype} from {low} to {high}"
        raise UserError(what, where=where, allowed=f"0 to {most}")
    scaled = np.rint(array * 255.0) if most == 1 else array
    return scaled.astype(np.uint8)
