"""Several chunks of tasks in flight in one process.

torch's own threads split every operation, which for the small operations of one task costs more than it gains. Lanes
split the tasks instead: each is a thread with one intra-operation thread of its own, so that the numbers do not depend
on how many there are. torch lets go of the interpreter's lock inside its kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


class Lanes:
    """A pool of threads; with one lane, the calling thread does the work.

    Args:
        count: Threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
        """`function` of every item, in their order. An exception ends it."""
        given = list(items)
        if self.count == 1:
            return [function(item) for item in given]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="lane", initializer=lambda: torch.set_num_threads(1)
            )
        found: dict[int, Out] = {}
        turns = itertools.count()

        def lane() -> None:
            """Take items until there are none: one errand for each thread is cheaper than one for each item."""
            while (turn := next(turns)) < len(given):
                found[turn] = function(given[turn])

        for errand in [self._pool.submit(lane) for _ in range(min(self.count, len(given)))]:
            errand.result()
        return [found[turn] for turn in range(len(given))]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
