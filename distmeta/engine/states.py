"""States along a recorded walk of many inner steps: some are kept, the others are computed again when they are needed.

With a state kept before every s-th of K segments, and those of one stretch computed again at a time, K / s + s states
are in memory, fewest for s = sqrt(K) (Chen et al. 2016, arXiv 1604.06174). Each segment then runs once more, without an
autograd graph; the same operations on the same tensors give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from distmeta.engine.segments import Segment
from distmeta.methods.estimators.base import State

KEEP_ALL = 16
"""Number of segments up to which all states are kept."""


class States:
    """The states before the segments of one walk.

    Args:
        run: (segment, state before it) -> state after it.
        num_segments: Segments of the walk, about.
    """

    def __init__(self, run: Callable[[Segment, State], State], num_segments: int) -> None:
        self._run = run
        self._stretch = 1 if num_segments <= KEEP_ALL else math.isqrt(num_segments)
        self._segments: list[Segment] = []
        self._kept: dict[int, State] = {}

    def add(self, segment: Segment, state: State) -> Callable[[], State]:
        """Add the next segment and the state before it. Returns what gives this state again."""
        index = len(self._segments)
        self._segments.append(segment)
        if index % self._stretch == 0:
            self._kept[index] = state
        return lambda: self._before(index)

    def _before(self, index: int) -> State:
        """States are asked for from the last to the first, so those of one stretch are kept until the one before it."""
        if index not in self._kept:
            self._drop_behind(index)
            begin = index - index % self._stretch
            for i in range(begin, index):
                self._kept[i + 1] = self._run(self._segments[i], self._kept[i])
        return self._kept[index]

    def _drop_behind(self, index: int) -> None:
        for i in [i for i in self._kept if i > index and i % self._stretch]:
            del self._kept[i]
