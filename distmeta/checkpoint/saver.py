"""Saving while the store of the checkpoints fails: training goes on, and nothing is lost without a word.

save fails  ->  told once, counted; due again after 1, 2, 4 ... 60 s
the end     ->  tried again and again for some minutes, then raised
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from distmeta.checkpoint.storage import StoreError

_LOG = logging.getLogger(__name__)
_MAX_WAIT_S = 60.0


def retry_wait_s(failures: int) -> float:
    """How long to leave a store alone that has failed `failures` times in a row, in seconds."""
    return min(_MAX_WAIT_S, 2.0 ** min(failures - 1, 10))


class Saver:
    """Saves checkpoints into a store that may fail for a while.

    Attributes:
        failures: Saves that have failed.

    Args:
        clock: Seconds.
        sleep: Waits for some seconds.
        patience_s: How long `final` keeps trying, in seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        patience_s: float = 120.0,
    ) -> None:
        self._clock, self._sleep, self._patience_s = clock, sleep, patience_s
        self.failures = 0
        self._in_a_row, self._due_s = 0, -math.inf

    def overdue(self) -> bool:
        """Whether a save has failed and it is time to try again."""
        return self._in_a_row > 0 and self._clock() >= self._due_s

    def save(self, write: Callable[[], str]) -> str | None:
        """Write a checkpoint, unless the store has failed just before.

        Args:
            write: Writes it and returns where it lies, e.g. a call of `distmeta.checkpoint.save`.

        Returns:
            Where it lies; None if it could not be written.
        """
        if self._in_a_row and not self.overdue():
            return None
        try:
            return self._attempt(write)
        except StoreError:
            return None

    def final(self, write: Callable[[], str]) -> str:
        """Write the last checkpoint of a run, trying for up to `patience_s` seconds.

        Args:
            write: See `save`.

        Returns:
            Where it lies.

        Raises:
            StoreError: The store kept failing.
        """
        give_up_s = self._clock() + self._patience_s
        while True:
            try:
                return self._attempt(write)
            except StoreError:
                left_s = give_up_s - self._clock()
                if left_s <= 0.0:
                    raise
                self._sleep(min(left_s, retry_wait_s(self._in_a_row)))

    def _attempt(self, write: Callable[[], str]) -> str:
        try:
            path = write()
        except StoreError as error:
            if not self._in_a_row:
                _LOG.warning("checkpoint: saving fails, training goes on and it is tried again: %s", error)
            self.failures += 1
            self._in_a_row += 1
            self._due_s = self._clock() + retry_wait_s(self._in_a_row)
            raise
        if self._in_a_row:
            _LOG.warning("checkpoint: saved again, after %d failures", self._in_a_row)
        self._in_a_row = 0
        return path
