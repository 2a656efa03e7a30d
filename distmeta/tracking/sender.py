"""Writes to a store that may be slow or away, from one background thread, so that training never waits for it.

    training thread                     sender thread
    put(points), upload(item) --> queue --> every second: send, or wait 1, 2, 4 ... 30 s while the store is away
    close(timeout)            ------------> a last bounded try; what is left is handed back

Points go before uploads: a large file does not hold back the curves. They go in the order in which they were logged, so
that the store has of each metric all steps up to the last one that it knows.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from distmeta.tracking.base import Point
from distmeta.tracking.uris import mask_uri

_LOG = logging.getLogger(__name__)
_RETRY_WHILE_CLOSING_S = 1.0
_LEAST_BATCH = 50


@dataclass(frozen=True)
class Upload:
    """Something larger than a number.

    Attributes:
        what: Its name in messages.
        staged: The private copy that is sent.
        send: Sends it; called again after an outage.
    """

    what: str
    staged: Path
    send: Callable[[], None]


@dataclass
class Unsent:
    """What the store did not take."""

    points: list[Point] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)


class Sender:
    """The queue and its thread.

    Args:
        send_points: Writes some points to the store.
        is_outage: Whether an error of the store may pass, so that trying again makes sense. Other errors are final.
        interval_s: Time between two writes, in seconds.
        max_wait_s: Longest wait between two tries while the store is away, in seconds.
        batch: Most points in one call of `send_points`.
    """

    def __init__(
        self,
        send_points: Callable[[Sequence[Point]], None],
        is_outage: Callable[[Exception], bool],
        *,
        interval_s: float = 1.0,
        max_wait_s: float = 30.0,
        batch: int = 1000,
    ) -> None:
        self._send_points, self._is_outage = send_points, is_outage
        self._interval_s, self._max_wait_s, self._batch = interval_s, max_wait_s, batch
        self._limit = batch
        self._points: deque[Point] = deque()
        self._uploads: deque[Upload] = deque()
        self._refused = Unsent()
        self._refused_keys: set[str] = set()
        self._away: set[type] = set()  # a server may answer while the place of its artifacts does not
        self._lock = threading.Lock()
        self._closing, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="distmeta-tracking", daemon=True)
        self._thread.start()

    def put(self, points: Iterable[Point]) -> None:
        """Queue points. Returns at once."""
        with self._lock:
            self._points.extend(points)

    def upload(self, item: Upload, *, replace: bool = False) -> list[Upload]:
        """Queue an upload. Returns at once.

        Args:
            item: The upload.
            replace: It stands for those of the same name that wait.

        Returns:
            Those that it replaces; the first in the queue is not among them, since it may be on its way.
        """
        with self._lock:
            waiting = list(self._uploads)
            replaced = [other for other in waiting[1:] if replace and other.what == item.what]
            self._uploads = deque([*(other for other in waiting if other not in replaced), item])
            return replaced

    def pending(self) -> list[Point]:
        """The points that the store is not known to have."""
        with self._lock:
            return [*self._refused.points, *self._points]

    @property
    def away(self) -> bool:
        """Whether the store did not answer when it was last asked."""
        return bool(self._away)

    def close(self, timeout_s: float) -> Unsent:
        """Send what is queued, for at most `timeout_s` seconds, end the thread and return what was not sent."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._stop.set()
        with self._lock:
            return Unsent([*self._refused.points, *self._points], [*self._refused.uploads, *self._uploads])

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._stop.is_set():
            (self._stop if self._closing.is_set() else self._closing).wait(wait_s)
            closing = self._closing.is_set()
            if self._send():
                if closing:
                    return
                wait_s = self._interval_s
            else:
                wait_s = _RETRY_WHILE_CLOSING_S if closing else min(self._max_wait_s, 2.0 * wait_s)

    def _send(self) -> bool:
        """Send all that is queued. Returns False if the store is away."""
        while not self._stop.is_set():
            item = self._next()
            if item is None:
                break
            try:
                self._deliver(item)
            except Exception as error:  # the one place that takes any error: no store may change or end the training
                if self._is_outage(error):
                    self._report_outage(item, error)
                    return False
                self._refuse(item, error)
            else:
                self._limit = min(2 * self._limit, self._batch)
                if type(item) in self._away:
                    _LOG.warning("tracking: the store answers again")
                self._away.discard(type(item))
                self._done(item, refused=False)
        return True

    def _refuse(self, item: list[Point] | Upload, error: Exception) -> None:
        """Halve a batch that the store refuses until the points remain to which it objects."""
        if isinstance(item, list) and len(item) > 1:
            self._limit = len(item) // 2
            return
        names = {item.what} if isinstance(item, Upload) else {point.key for point in item}
        if not names <= self._refused_keys:
            _LOG.warning("tracking: %s could not be recorded: %s", ", ".join(names), _reason(error))
        self._refused_keys |= names
        self._done(item, refused=True)

    def _report_outage(self, item: list[Point] | Upload, error: Exception) -> None:
        if type(item) not in self._away:
            _LOG.warning("tracking: the store does not answer, training goes on meanwhile: %s", _reason(error))
        self._away.add(type(item))
        if isinstance(item, list):  # it may be slow rather than away
            self._limit = max(self._limit // 2, min(_LEAST_BATCH, self._batch))

    def _next(self) -> list[Point] | Upload | None:
        with self._lock:
            if self._points:
                return list(islice(self._points, self._limit))
            return self._uploads[0] if self._uploads else None

    def _deliver(self, item: list[Point] | Upload) -> None:
        if isinstance(item, Upload):
            item.send()
        else:
            self._send_points(item)

    def _done(self, item: list[Point] | Upload, *, refused: bool) -> None:
        with self._lock:
            if isinstance(item, Upload):
                self._uploads.popleft()
                self._refused.uploads += [item] if refused else []
            else:
                for _ in item:
                    self._points.popleft()
                self._refused.points += item if refused else []


def _reason(error: Exception) -> str:
    return mask_uri(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
