"""The executor without processes: one worker in this one, for laptops and debuggers. The code path is that of Ray."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence

import torch

from distmeta.config import RuntimeConfig
from distmeta.runtime.decisions import surfaced
from distmeta.runtime.executor import Executor, Recipe, Result
from distmeta.runtime.wire import decode_value, encode_snapshot
from distmeta.runtime.worker import Worker
from distmeta.types import Shard, Snapshot


class LocalExecutor(Executor):
    """Runs shards in order in this process.

    Args:
        config: `threads_per_worker` is used; the number of threads before is restored by `close`.
        recipe: The program.
    """

    def __init__(self, config: RuntimeConfig, recipe: Recipe) -> None:
        self.num_workers = 1
        self.restarts = 0
        self.retries = 0
        self._serial = 0
        self._threads_before: int | None = torch.get_num_threads()
        self._worker = Worker(0, recipe, config.threads_per_worker)

    def ready(self) -> None:
        """The program was built with the executor."""

    def map(
        self, kind: str, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        """See `Executor.map`."""
        self._serial += 1
        wire = encode_snapshot(snapshot, self._serial)
        following = [*shards[1:], upcoming[0] if upcoming else None] if shards else []
        for shard, after in zip(shards, following, strict=True):
            try:
                result = self._worker.run(kind, wire, shard, after)
            except Exception as error:
                raise surfaced(error, f"shard {shard.index}", traceback.format_exc()) from error
            yield Result(shard.index, decode_value(result.value), 0, result.data_wait_s, result.compute_s)

    def close(self) -> None:
        """Restore the number of threads."""
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None
