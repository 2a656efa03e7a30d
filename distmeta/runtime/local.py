"""The executor without processes: one worker in this one, for laptops and debuggers. The code path is that of Ray."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from distmeta.config import RuntimeConfig
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Executor, Feed, Program, Result
from distmeta.runtime.policy.decisions import surfaced
from distmeta.runtime.wire import SnapshotWire, decode_value, encode_snapshot
from distmeta.runtime.worker import Worker


class LocalExecutor(Executor):
    """Runs shards in order in this process.

    Args:
        config: `threads_per_worker` is used; the number of threads before is restored by `close`.
        program: What to do with shards; closed with the executor.
        compression: How updates are rounded on the way (`outer.compression`).
    """

    def __init__(self, config: RuntimeConfig, program: Program, compression: Compression = "none") -> None:
        super().__init__()
        self._serial = 0
        self._waiting: deque[tuple[SnapshotWire, Shard]] = deque()
        self._shards: dict[int, tuple[SnapshotWire, Shard]] = {}
        self._threads_before: int | None = torch.get_num_threads()
        self._program = program
        self._worker = Worker(0, program, config.threads_per_worker, compression)

    @property
    def num_workers(self) -> int:
        """This process."""
        return 1

    def ready(self) -> None:
        """There is nothing to wait for."""

    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        wire = self._encoded(snapshot)
        self._shards = {shard.index: (wire, shard) for shard in shards}
        self._waiting = deque(self._shards.values())
        while self._waiting:
            wire, shard = self._waiting.popleft()
            following = [waiting for _, waiting in self._waiting] or upcoming
            yield self._run(work, wire, shard, following[0] if following else None)

    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
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
            yield self._run(work, wire, shard, None)

    def recompute(self, result: Result) -> None:
        """See `Executor.recompute`."""
        self.counts["retries"] += 1
        self._waiting.appendleft(self._shards[result.shard])

    def close(self) -> None:
        """Close the program and restore the number of threads."""
        self._program.close()
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def _encoded(self, snapshot: Snapshot) -> SnapshotWire:
        self._serial += 1
        return encode_snapshot(snapshot, self._serial)

    def _run(self, work: Work, wire: SnapshotWire, shard: Shard, following: Shard | None) -> Result:
        try:
            result = self._worker.run(work, wire, shard, following)
        except Exception as error:
            raise surfaced(error, f"shard {shard.index}", traceback.format_exc()) from error
        return Result(shard.index, decode_value(result.value), 0, result.data_wait_s, result.compute_s)
