"""Several chunks of tasks in flight in one process.

torch's own threads split every operation, which for the small operations of one task costs more than it gains. Lanes
split the tasks instead: each is a thread with one intra-operation thread of its own, so that the numbers do not depend
on how many there are. torch lets go of the interpreter's lock inside its kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """`function` of every item, in their order. An exception ends it."""
        if self.count == 1:
            return map(function, items)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="lane", initializer=lambda: torch.set_num_threads(1)
            )
        return self._pool.map(function, items)
