"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Iterator


def until(timeout_s: float, failing: str, *, every_s: float = 0.1) -> Iterator[float]:
    """Go round a loop until it is left.

    Yields:
        Seconds since the first round.

    Raises:
        TimeoutError: The loop was not left in time; `failing` says what that means.
    """
    began = time.monotonic()
    while (passed := time.monotonic() - began) < timeout_s:
        yield passed
        time.sleep(every_s)
    raise TimeoutError(f"{failing} after {timeout_s:g} s")
