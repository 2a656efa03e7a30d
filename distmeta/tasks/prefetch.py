"""Make the episodes of the next shards while the current one is computed."""

from __future__ import annotations

import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from distmeta.core.types import Episode, Shard, TaskSpec
from distmeta.tasks.base import TaskSource

MAX_AHEAD = 2


class Prefetcher:
    """Builds episodes on one background thread. What `take` returns is the same with or without `prepare`.

    At most two shards are kept ahead: a third one replaces the oldest, so that a shard that was never taken (because
    another worker got it) does not stay in the way.

    Args:
        source: Makes the episodes; only `episodes` is called, from this thread and from the caller's.
        pinned: Put them where a GPU can copy from while the host goes on.
    """

    def __init__(self, source: TaskSource, *, pinned: bool = False) -> None:
        self._source, self._pinned = source, pinned
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: OrderedDict[tuple[TaskSpec, ...], Future[Episode]] = OrderedDict()
        self._lock = Lock()
        self._closed = False

    def prepare(self, shard: Shard) -> None:
        """Begin to build the shard's episode; nothing happens if it is under way already or this is closed."""
        with self._lock:
            if self._closed or shard.specs in self._ahead:
                return
            if len(self._ahead) == MAX_AHEAD:
                self._ahead.popitem(last=False)[1].cancel()
            self._ahead[shard.specs] = self._pool.submit(self._build, shard.specs)

    def take(self, shard: Shard) -> tuple[Episode, float]:
        """The shard's episode, prepared or built now, and the seconds the caller waited for it.

        Raises:
            Exception: Whatever the source raised for this shard.
        """
        start_s = time.perf_counter()
        with self._lock:
            future = self._ahead.pop(shard.specs, None)
        # What has not begun yet (`cancel` succeeds) is built here sooner than behind the shard the thread is busy with.
        episode = self._build(shard.specs) if future is None or future.cancel() else future.result()
        return episode, time.perf_counter() - start_s

    def _build(self, specs: tuple[TaskSpec, ...]) -> Episode:
        episode = self._source.episodes(specs)
        return episode.map(lambda tensor: tensor.pin_memory()) if self._pinned else episode

    def close(self) -> None:
        """Drop what is prepared and end the thread; `take` still works, without it."""
        with self._lock:
            self._closed = True
            self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Use it in a `with` block, which closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
