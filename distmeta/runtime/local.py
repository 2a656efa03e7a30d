"""The executor without processes, for laptops and debuggers: one worker in this process, with the code of Ray's."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from typing_extensions import override

from distmeta.config import RuntimeConfig
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.device import check_device
from distmeta.runtime.executor import Executor, Feed, Program, Result
from distmeta.runtime.messages import SnapshotWire
from distmeta.runtime.policy.decisions import driver_error
from distmeta.runtime.wire import decode_result, encode_snapshot
from distmeta.runtime.worker import Worker


class LocalExecutor(Executor):
    """Computes shards in order in this process.

    Args:
        config: `threads_per_worker` is used; `close` restores the number of threads.
        program: What computes shards; closed with the executor.
        compression: How updates are rounded for transport (`outer.compression`).

    Raises:
        UserError: This process does not have the device.
    """

    def __init__(self, config: RuntimeConfig, program: Program, compression: Compression = "none") -> None:
        super().__init__()
        check_device(config.device)
        self._serial = 0
        self._pending: deque[tuple[SnapshotWire, Shard]] = deque()
        self._shards: dict[int, tuple[SnapshotWire, Shard]] = {}
        self._previous_threads: int | None = torch.get_num_threads()
        self._program = program
        self._worker = Worker(0, program, config.threads_per_worker, compression)

    @property
    @override
    def num_workers(self) -> int:
        return 1

    @override
    def ready(self) -> None:
        pass  # the program was built before

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        wire = self._encode(snapshot)
        self._shards = {shard.index: (wire, shard) for shard in shards}
        self._pending = deque(self._shards.values())
        self.call_meanwhile()
        while self._pending:
            wire, shard = self._pending.popleft()
            following = [pending for _, pending in self._pending] or upcoming
            yield self._run(work, wire, shard, following[0] if following else None)

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        self._pending.clear()
        while True:
            if not self._pending:
                item = feed()
                if item is None:
                    return
                self._pending.append((self._encode(item[0]), item[1]))
            wire, shard = self._pending.popleft()
            self._shards = {shard.index: (wire, shard)}
            yield self._run(work, wire, shard, None)

    @override
    def recompute(self, result: Result) -> None:
        self.counts["retries"] += 1
        self._pending.appendleft(self._shards[result.shard])

    @override
    def close(self) -> None:
        """Close the program and restore the number of threads."""
        self._program.close()
        if self._previous_threads is not None:
            torch.set_num_threads(self._previous_threads)
            self._previous_threads = None

    def _encode(self, snapshot: Snapshot) -> SnapshotWire:
        self._serial += 1
        return encode_snapshot(snapshot, self._serial)

    def _run(self, work: Work, wire: SnapshotWire, shard: Shard, upcoming: Shard | None) -> Result:
        self.interrupt()
        try:
            result = self._worker.run(work, wire, shard, upcoming)
        except Exception as error:
            raise driver_error(error, f"shard {shard.index}", traceback.format_exc()) from error
        return decode_result(result)
