"""Decode image files to uint8 arrays in a thread pool (Pillow releases the GIL).

Shapes: M images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from distmeta.core.errors import UserError

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs, it raises as well

_CHUNK = 256  # images per pool job, to amortise its overhead
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # decoded by Pillow itself, in this process
_GREY_MODES = ("1", "L", "LA")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def decode_images(
    names: Sequence[str],
    load: Callable[[int], bytes | Image.Image],
    *,
    size: int | None,
    grey: bool | None,
    num_threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode M encoded images into one array.

    Args:
        names: Name of each image in error messages, for instance its path.
        load: Returns image i, encoded or as Pillow has it; called from several threads.
        size: Height and width to resize to, in pixels; None keeps the images, which must all have one size.
        grey: One channel; otherwise three. None: as many as the first image has.
        num_threads: Threads that call `load`; None takes one for each core.

    Returns:
        [M, C, H, W] uint8.

    Raises:
        UserError: An image cannot be decoded or has too many pixels, or its size differs from the first one's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of oddities in files that can be decoded all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _decode_all(names, load, size, grey, num_threads or os.cpu_count())


def _decode_all(
    names: Sequence[str],
    load: Callable[[int], bytes | Image.Image],
    size: int | None,
    grey: bool | None,
    num_threads: int | None,
) -> npt.NDArray[np.uint8]:
    first = _decode(names[0], load, 0, size, grey)
    grey = first.shape[0] == 1
    images = np.empty((len(names), *first.shape), dtype=np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(names))):
            image = _decode(names[index], load, index, size, grey)
            if image.shape != first.shape:
                raise UserError(
                    f"is {image.shape[1]}x{image.shape[2]} pixels, the first image {first.shape[1]}x{first.shape[2]}",
                    where=names[index],
                    allowed="images of one size, or --size to resize them",
                )
            images[index] = image

    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for _ in pool.map(fill, range(0, len(names), _CHUNK)):
            pass
    return images


def _decode(
    name: str, load: Callable[[int], bytes | Image.Image], index: int, size: int | None, grey: bool | None
) -> npt.NDArray[np.uint8]:
    """Decode one image to [C, H, W]."""
    try:
        with _opened(load(index)) as image:
            grey = image.mode in _GREY_MODES if grey is None else grey
            if image.mode not in _EIGHT_BIT_MODES:
                raise UserError(f"has pixels of mode {image.mode}", where=name, allowed="images of 8 bits a channel")
            pixels: Image.Image = image.convert("L" if grey else "RGB")
    except UnidentifiedImageError as error:
        allowed = ", ".join(_FORMATS)
        raise UserError("the image cannot be decoded: unknown format", where=name, allowed=allowed) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        allowed = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise UserError("the image is too large to be decoded", where=name, allowed=allowed) from error
    # All of these are raised by Pillow's decoders on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UserError(f"the image cannot be decoded: {error}", where=name) from error
    if size is not None and pixels.size != (size, size):
        # After the conversion, because Pillow always resizes 1-bit images by nearest neighbour.
        pixels = pixels.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(pixels, dtype=np.uint8)
    return array[None] if grey else array.transpose(2, 0, 1)


def _opened(value: bytes | Image.Image) -> contextlib.AbstractContextManager[Image.Image]:
    if isinstance(value, Image.Image):
        return contextlib.nullcontext(value)
    return Image.open(io.BytesIO(value), formats=_FORMATS)
