"""The worker: builds the program of a recipe and runs shards with it, the next shard's episodes being made meanwhile.

A plain class, the same in this process and in a Ray actor; it does not know which of them it is in. Kept light: a
worker's start is mostly the import of torch.
"""

from __future__ import annotations

import torch

from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.compression import Compression, Compressor
from distmeta.runtime.executor import Program
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.wire import ResultWire, SnapshotWire, decode_snapshot, encode_value


class Worker:
    """Runs shards.

    Args:
        index: Number of this worker.
        program: What to do with them.
        threads: Threads of its tensor operations.
        compression: How its updates are rounded (`outer.compression`).
    """

    def __init__(self, index: int, program: Program, threads: int, compression: Compression = "none") -> None:
        self._index = index
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._program = program
        self._compressor = None if compression == "none" else Compressor(compression)
        self._cached: tuple[int, Snapshot] | None = None

    def run(self, work: Work, wire: SnapshotWire, shard: Shard, upcoming: Shard | None) -> ResultWire:
        """Compute a shard.

        Args:
            work: Passed on to the program.
            wire: The meta-parameters; decoded once, however many shards come with them.
            shard: The tasks.
            upcoming: The shard to prepare meanwhile; it may in the end be run by another worker.

        Returns:
            The shard's value and times.
        """
        snapshot = self._decoded(wire)
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

    def _decoded(self, wire: SnapshotWire) -> Snapshot:
        if self._cached is None or self._cached[0] != wire.serial:
            self._cached = wire.serial, decode_snapshot(wire)
        return self._cached[1]
