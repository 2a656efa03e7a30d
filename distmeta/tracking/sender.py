"""Background writes to a tracking store that may be slow or unavailable, so that training never waits for it.

    training thread                     sender thread
    put(points), upload(item) --> queue --> send every second; back off 1, 2, 4 ... 30 s while the store is unavailable
    close(timeout)            ------------> send until the timeout; return what is left

Metric points are sent before uploads, so that a large file does not delay curves, and in the order in which they were
logged, so that the store has all steps of a metric up to its last one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from distmeta.tracking.base import MetricPoint
from distmeta.tracking.failure import StoreFailure
from distmeta.tracking.uris import mask_uri

_LOG = logging.getLogger(__name__)
_CLOSING_RETRY_S = 1.0
_MIN_BATCH_AFTER_OUTAGE = 50


@dataclass(frozen=True)
class Upload:
    """A file or folder to send.

    Attributes:
        name: Name in log messages; also identifies uploads that replace each other.
        staged: The private copy that is sent.
        send: Sends it; called again after an outage.
    """

    name: str
    staged: Path
    send: Callable[[], None]


@dataclass
class Unsent:
    """Points and uploads that could not be sent."""

    points: list[MetricPoint] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)


class Sender:
    """A queue, and the thread that sends from it.

    Args:
        send_points: Writes a batch of points to the store.
        is_outage: Whether an error is transient, so that the call is retried. Other errors are final.
        interval_s: Interval between writes, in seconds.
        max_wait_s: Longest wait between retries, in seconds.
        batch_size: Largest number of points in one call of `send_points`.
    """

    def __init__(
        self,
        send_points: Callable[[Sequence[MetricPoint]], None],
        is_outage: Callable[[Exception], bool],
        *,
        interval_s: float = 1.0,
        max_wait_s: float = 30.0,
        batch_size: int = 1000,
    ) -> None:
        self._send_points, self._is_outage = send_points, is_outage
        self._interval_s, self._max_wait_s, self._batch_size = interval_s, max_wait_s, batch_size
        self._batch_limit = batch_size
        self._points: deque[MetricPoint] = deque()
        self._uploads: deque[Upload] = deque()
        self._rejected = Unsent()
        self._rejected_names: set[str] = set()
        # Types of items that cannot be sent: a server may be available while its artifact store is not.
        self._unavailable: set[type] = set()
        self._lock = threading.Lock()
        self._closing, self._stop, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="distmeta-tracking", daemon=True)
        self._thread.start()

    def put(self, points: Iterable[MetricPoint]) -> None:
        """Queue points without waiting."""
        with self._lock:
            self._points.extend(points)

    def upload(self, item: Upload, *, replace: bool = False, at_once: bool = False) -> list[Upload]:
        """Queue an upload without waiting.

        Args:
            item: The upload.
            replace: Remove queued uploads of the same name.
            at_once: Do not wait for the end of the interval, unless the store is unavailable.

        Returns:
            The uploads removed; never the first in the queue, because it may be in progress.
        """
        with self._lock:
            queued = list(self._uploads)
            replaced = [other for other in queued[1:] if replace and other.name == item.name]
            self._uploads = deque([*(other for other in queued if other not in replaced), item])
        if at_once and not self._unavailable:
            self._wake.set()
        return replaced

    def pending(self) -> list[MetricPoint]:
        """Points that the store has not confirmed, including rejected ones."""
        with self._lock:
            return [*self._rejected.points, *self._points]

    @property
    def unavailable(self) -> bool:
        """Whether the last call of the store failed because of an outage."""
        return bool(self._unavailable)

    def close(self, timeout_s: float) -> Unsent:
        """Send what is queued for at most `timeout_s` seconds, end the thread and return what was not sent."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._stop.set()
        with self._lock:
            return Unsent([*self._rejected.points, *self._points], [*self._rejected.uploads, *self._uploads])

    def _run(self) -> None:
        wait_s, retries_last = self._interval_s, False
        while not self._stop.is_set():
            if not self._closing.is_set():
                self._wake.wait(wait_s)
                self._wake.clear()
            elif retries_last:
                self._stop.wait(wait_s)
            closing = self._closing.is_set()
            if self._send():
                if closing:
                    return
                wait_s = self._interval_s
            else:
                wait_s = _CLOSING_RETRY_S if closing else min(self._max_wait_s, 2.0 * wait_s)
            retries_last = closing

    def _send(self) -> bool:
        """Send all that is queued. Return False if the store is unavailable."""
        while not self._stop.is_set():
            item = self._next()
            if item is None:
                break
            try:
                self._deliver(item)
            except Exception as error:  # any error: a tracking store must never end the training
                if self._is_outage(error):
                    self._handle_outage(item, error)
                    return False
                self._reject(item, error)
            else:
                self._batch_limit = min(2 * self._batch_limit, self._batch_size)
                if type(item) in self._unavailable:
                    _LOG.warning("tracking: the store is available again")
                self._unavailable.discard(type(item))
                self._dequeue(item, rejected=False)
        return True

    def _reject(self, item: list[MetricPoint] | Upload, error: Exception) -> None:
        """Drop an item that the store rejects. Of a batch, find the rejected points by bisection."""
        if isinstance(item, list) and len(item) > 1:
            self._batch_limit = len(item) // 2
            return
        names = {item.name} if isinstance(item, Upload) else {point.key for point in item}
        if not names <= self._rejected_names:
            _LOG.warning("tracking: %s could not be recorded: %s", ", ".join(names), _reason(error))
        self._rejected_names |= names
        self._dequeue(item, rejected=True)

    def _handle_outage(self, item: list[MetricPoint] | Upload, error: Exception) -> None:
        if type(item) not in self._unavailable:
            _LOG.warning("tracking: the store is unavailable, training continues: %s", _reason(error))
        self._unavailable.add(type(item))
        if isinstance(item, list):  # the store may be too slow for a large batch
            self._batch_limit = max(self._batch_limit // 2, min(_MIN_BATCH_AFTER_OUTAGE, self._batch_size))

    def _next(self) -> list[MetricPoint] | Upload | None:
        with self._lock:
            if self._points:
                return list(islice(self._points, self._batch_limit))
            return self._uploads[0] if self._uploads else None

    def _deliver(self, item: list[MetricPoint] | Upload) -> None:
        if isinstance(item, Upload):
            item.send()
        else:
            self._send_points(item)

    def _dequeue(self, item: list[MetricPoint] | Upload, *, rejected: bool) -> None:
        with self._lock:
            if isinstance(item, Upload):
                self._uploads.popleft()
                self._rejected.uploads += [item] if rejected else []
            else:
                for _ in item:
                    self._points.popleft()
                self._rejected.points += item if rejected else []


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, StoreFailure) else f"{type(error).__name__}: {error}"
    return mask_uri(" ".join(text.split()))[:500]
