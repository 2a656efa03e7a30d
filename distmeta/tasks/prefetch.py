"""Build the episodes of the next shards on a background thread while the current one is computed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from distmeta.core.types import Episode, Shard, TaskSpec

MAX_AHEAD = 2


class Prefetcher:
    """Builds episodes on one background thread. `take` returns the same with and without `prepare`.

    At most two shards are prepared ahead: a third one replaces the oldest, so that a shard that is never taken (because
    another worker computes it) does not block the queue.

    Args:
        build: Builds the episodes of tasks; called from the background thread and from the caller's.
        pinned: Move the episodes to pinned memory, so that copies to a GPU are asynchronous.
    """

    def __init__(self, build: Callable[[Sequence[TaskSpec]], Episode], *, pinned: bool = False) -> None:
        self._episodes, self._pinned = build, pinned
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: OrderedDict[tuple[TaskSpec, ...], Future[Episode]] = OrderedDict()
        self._lock = Lock()
        self._closed = False

    def prepare(self, shard: Shard) -> None:
        """Start building the shard's episode, unless it is being built already or the prefetcher is closed."""
        with self._lock:
            if self._closed or shard.specs in self._ahead:
                return
            if len(self._ahead) == MAX_AHEAD:
                self._ahead.popitem(last=False)[1].cancel()
            self._ahead[shard.specs] = self._pool.submit(self._build, shard.specs)

    def take(self, shard: Shard) -> tuple[Episode, float]:
        """Return the shard's episode, prepared or built now, and the seconds that the caller waited for it.

        Raises:
            Exception: Any error of the source for this shard.
        """
        start_s = time.perf_counter()
        with self._lock:
            future = self._ahead.pop(shard.specs, None)
        # If the build has not started (`cancel` succeeds), build here rather than wait for the current shard.
        episode = self._build(shard.specs) if future is None or future.cancel() else future.result()
        return episode, time.perf_counter() - start_s

    def _build(self, specs: tuple[TaskSpec, ...]) -> Episode:
        episode = self._episodes(specs)
        return episode.map(lambda tensor: tensor.pin_memory()) if self._pinned else episode

    def close(self) -> None:
        """Drop prepared episodes and end the thread. `take` still works; it builds on the caller's thread."""
        with self._lock:
            self._closed = True
            self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
