"""The worker: computes shards with a program while the next shard's episodes are prepared.

A plain class, the same in this process and in a Ray actor. It imports little, since a worker's start is mostly the
import of torch.
"""

from __future__ import annotations

import torch

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.compression import Compression, Compressor
from distmeta.runtime.executor import Program
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.messages import ResultWire, SnapshotWire
from distmeta.runtime.wire import decode_snapshot, encode_value


class Worker:
    """Computes shards.

    Args:
        index: Index of this worker.
        program: What computes them.
        threads: Threads of tensor operations.
        compression: How updates are rounded for transport (`outer.compression`).
    """

    def __init__(self, index: int, program: Program, threads: int, compression: Compression = "none") -> None:
        self._index = index
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._program = program
        self._compressor = None if compression == "none" else Compressor(compression)
        self._snapshot: tuple[int, Snapshot] | None = None

    def run(self, work: Work, wire: SnapshotWire, shard: Shard, upcoming: Shard | None) -> ResultWire:
        """Compute a shard.

        Args:
            work: What to compute; passed on to the program.
            wire: The meta-parameters, decoded once for all shards that come with them.
            shard: The shard.
            upcoming: The shard to prepare meanwhile. It may be computed by another worker after all.
        """
        snapshot = self._decode(wire)
        if upcoming is not None:
            self._program.prepare(work, upcoming)
        value = self._program.run(work, snapshot, shard)
        timing = self._program.timing()
        return ResultWire(
            shard=shard.index,
            value=encode_value(value, self._compressor),
            worker=self._index,
            data_wait_s=timing["data_wait_s"],
            compute_s=timing["compute_s"],
        )

    def _decode(self, wire: SnapshotWire) -> Snapshot:
        if self._snapshot is None or self._snapshot[0] != wire.serial:
            self._snapshot = wire.serial, decode_snapshot(wire)
        return self._snapshot[1]
