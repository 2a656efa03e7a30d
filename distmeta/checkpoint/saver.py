"""Save checkpoints to a store that may fail temporarily, without ending the training.

a save fails        ->  log the first failure, count all; retry is due after 1, 2, 4 ... 60 s
the last save fails ->  retry for two minutes, then raise
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
    """Wait before the next attempt after `failures` consecutive failures, in seconds."""
    return min(_MAX_WAIT_S, 2.0 ** min(failures - 1, 10))


class Saver:
    """Saves checkpoints to a store that may fail temporarily.

    Attributes:
        failures: Number of failed attempts.

    Args:
        clock: Monotonic clock in seconds.
        sleep: Sleeps for a number of seconds.
        final_timeout_s: How long `final` retries, in seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        final_timeout_s: float = 120.0,
    ) -> None:
        self._clock, self._sleep, self._final_timeout_s = clock, sleep, final_timeout_s
        self.failures = 0
        self._consecutive_failures, self._due_s = 0, -math.inf

    def overdue(self) -> bool:
        """Whether a save has failed and its retry is due."""
        return self._consecutive_failures > 0 and self._clock() >= self._due_s

    def save(self, write: Callable[[], str]) -> str | None:
        """Write a checkpoint, unless the last attempt failed and its retry is not due yet.

        Args:
            write: Writes the checkpoint and returns its path, e.g. a call of `distmeta.checkpoint.save`.

        Returns:
            The path; None if the checkpoint was not written.
        """
        if self._consecutive_failures and not self.overdue():
            return None
        try:
            return self._attempt(write)
        except StoreError:
            return None

    def final(self, write: Callable[[], str]) -> str:
        """Write the last checkpoint of a run, with retries for up to `final_timeout_s` seconds.

        Args:
            write: As in `save`.

        Returns:
            The path of the checkpoint.

        Raises:
            StoreError: The last attempt failed.
        """
        deadline_s = self._clock() + self._final_timeout_s
        while True:
            try:
                return self._attempt(write)
            except StoreError:
                left_s = deadline_s - self._clock()
                if left_s <= 0.0:
                    raise
                self._sleep(min(left_s, retry_wait_s(self._consecutive_failures)))

    def _attempt(self, write: Callable[[], str]) -> str:
        try:
            path = write()
        except StoreError as error:
            if not self._consecutive_failures:
                _LOG.warning("checkpoint: saving fails, training continues and the save is retried: %s", error)
            self.failures += 1
            self._consecutive_failures += 1
            self._due_s = self._clock() + retry_wait_s(self._consecutive_failures)
            raise
        if self._consecutive_failures:
            _LOG.warning("checkpoint: saved again after %d failures", self._consecutive_failures)
        self._consecutive_failures = 0
        return path
