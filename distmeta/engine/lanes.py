"""Lanes: a lane is a thread that computes chunks of tasks.

torch's own threads split every operation, which costs more than it gains for the small operations of one task. Lanes
split the tasks instead. Each lane has one intra-operation thread, or as many as the configuration says, so that the
numbers do not depend on how many lanes there are. Lanes run in parallel because torch releases the GIL inside its
kernels.

On a GPU there is one lane: its kernels fill the device, and a CUDA graph cannot be captured while another thread uses
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def lanes_for(device: str, threads: int, threads_per_chunk: int = 1) -> int:
    """Number of lanes of a process with so many threads."""
    return max(1, threads // threads_per_chunk) if device == "cpu" else 1


class Lanes:
    """A thread pool; with one lane, the calling thread does the work, with the threads that it has.

    Args:
        count: Number of lanes.
        threads: Intra-operation threads of each of several lanes.
    """

    def __init__(self, count: int, threads: int = 1) -> None:
        self.count, self._threads = count, threads
        self._pool: ThreadPoolExecutor | None = None

    def chunk(self, num_tasks: int) -> int:
        """Number of tasks in a chunk of a shard, where the configuration leaves it open."""
        return num_tasks

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
        """`function` of every item, in the order of the items. The first exception is raised."""
        inputs = list(items)
        if self.count == 1:
            return [function(item) for item in inputs]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="lane", initializer=lambda: torch.set_num_threads(self._threads)
            )
        outputs: dict[int, Out] = {}
        indices = itertools.count()

        def lane() -> None:
            """Take items until none is left: one submission for each thread costs less than one for each item."""
            while (index := next(indices)) < len(inputs):
                outputs[index] = function(inputs[index])

        for future in [self._pool.submit(lane) for _ in range(min(self.count, len(inputs)))]:
            future.result()
        return [outputs[index] for index in range(len(inputs))]

    def stream(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """What `map` returns, one after the other."""
        return iter(self.map(function, items))

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
