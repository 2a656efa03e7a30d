"""The executor without processes: one worker in this one, for laptops and debuggers. The code path is that of Ray."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from distmeta.config import RuntimeConfig
from distmeta.core.types import Shard, Snapshot
from distmeta.runtime.executor import Executor, Feed, Recipe, Result
from distmeta.runtime.policy.decisions import surfaced
from distmeta.runtime.wire import SnapshotWire, decode_value, encode_snapshot
from distmeta.runtime.worker import Compression, Worker


class LocalExecutor(Executor):
    """Runs shards in order in this process.

    Args:
        config: `threads_per_worker` is used; the number of threads before is restored by `close`.
        recipe: The program.
        compression: How updates are rounded on the way (`outer.compression`).
    """

    def __init__(self, config: RuntimeConfig, recipe: Recipe, compression: Compression = "none") -> None:
        super().__init__()
        self._serial = 0
        self._waiting: deque[tuple[SnapshotWire, Shard]] = deque()
        self._shards: dict[int, tuple[SnapshotWire, Shard]] = {}
        self._threads_before: int | None = torch.get_num_threads()
        self._worker = Worker(0, recipe, config.threads_per_worker, compression)

    @property
    def num_workers(self) -> int:
        """This process."""
        return 1

    def ready(self) -> None:
        """The program was built with the executor."""

    def map(
        self, kind: str, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        wire = self._encoded(snapshot)
        self._shards = {shard.index: (wire, shard) for shard in shards}
        self._waiting = deque(self._shards.values())
        while self._waiting:
            wire, shard = self._waiting.popleft()
            following = [waiting for _, waiting in self._waiting] or upcoming
            yield self._run(kind, wire, shard, following[0] if following else None)

    def stream(self, kind: str, feed: Feed) -> Iterator[Result]:
        """See `Executor.stream`."""
        self._waiting.clear()
        while True:
            if not self._waiting:
                fed = feed()
                if fed is None:
                    return
                self._waiting.append((self._encoded(fed[0]), fed[1]))
            wire, shard = self._waiting.popleft()
            self._shards = {shard.index: (wire, shard)}
            yield self._run(kind, wire, shard, None)

    def again(self, result: Result) -> None:
        """See `Executor.again`."""
        self.counts["retries"] += 1
        self._waiting.appendleft(self._shards[result.shard])

    def close(self) -> None:
        """Restore the number of threads."""
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def _encoded(self, snapshot: Snapshot) -> SnapshotWire:
        self._serial += 1
        return encode_snapshot(snapshot, self._serial)

    def _run(self, kind: str, wire: SnapshotWire, shard: Shard, following: Shard | None) -> Result:
        try:
            result = self._worker.run(kind, wire, shard, following)
        except Exception as error:
            raise surfaced(error, f"shard {shard.index}", traceback.format_exc()) from error
        return Result(shard.index, decode_value(result.value), 0, result.data_wait_s, result.compute_s)
