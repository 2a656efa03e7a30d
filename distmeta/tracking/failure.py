"""Failures of requests to a store, and retries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from distmeta.core.errors import DistmetaError
from distmeta.tracking.uris import mask_uri

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")

FIRST_CALL_TIMEOUT_S = 3.0
"""How long to retry the first call, because the server may still be starting, in seconds."""
_MAX_WAIT_S = 10.0


class StoreFailure(DistmetaError):
    """A request failed.

    Attributes:
        what: The message of the store's error.
        outage: Whether the failure is transient.

    Args:
        kind: The type of the store's error.
    """

    def __init__(self, kind: str, what: str, *, outage: bool) -> None:
        super().__init__(f"{kind}: {what}")
        self.what, self.outage = what, outage


def is_outage(error: Exception) -> bool:
    """Whether an error is a failure that is transient."""
    return isinstance(error, StoreFailure) and error.outage


def retry_outages(call: Callable[[], _Result], timeout_s: float) -> _Result:
    """Call, and retry with backoff while the store is unavailable.

    Args:
        call: An idempotent request.
        timeout_s: How long to retry, in seconds. A wait longer than FIRST_CALL_TIMEOUT_S is logged.

    Returns:
        The result of `call`.

    Raises:
        Exception: The error of `call`, if it is no outage or the timeout has passed.
    """
    deadline_s, wait_s = time.monotonic() + timeout_s, 1.0
    silent = timeout_s <= FIRST_CALL_TIMEOUT_S
    while True:
        try:
            return call()
        except StoreFailure as error:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0 or not error.outage:
                raise
            if not silent:
                reason = mask_uri(" ".join(str(error).split()))[:300]
                _LOG.warning("tracking: the store is unavailable; waiting up to %.0f s for it: %s", left_s, reason)
            silent = True
        time.sleep(min(left_s, wait_s))
        wait_s = min(2.0 * wait_s, _MAX_WAIT_S)
