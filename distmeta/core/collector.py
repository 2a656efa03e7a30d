"""Python's cyclic garbage collector, while libraries are imported.

Importing torch and MLflow makes a million objects, nearly all of which stay. Collecting while they are made finds
nothing to free and takes a quarter of the time of the imports; the last collection when the process ends takes as long.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused(*, freeze: bool = False) -> Iterator[None]:
    """A block that imports libraries: nothing is collected in it. Reference counting goes on.

    Args:
        freeze: What there is when the block ends is never looked at again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def paused_process() -> Iterator[None]:
    """The same for a whole process that ends after the block, from which `resume` leaves the pause early."""
    was_enabled = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)  # what is left when the process ends need not be searched for garbage
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def resume() -> None:
    """Within `paused_process`: from now on collect again, but never look at what has been imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
