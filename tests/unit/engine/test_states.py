"""States of a walk that are computed again: the same ones, few of them at a time, each at most once more."""

from __future__ import annotations

from typing import Any

import pytest

from distmeta.engine.segments import Segment
from distmeta.engine.states import KEEP_ALL, States


class Walk:
    """A walk whose state k is the list of the segments before it."""

    def __init__(self, num_segments: int) -> None:
        self.runs: list[int] = []
        self.states = States(self._run, num_segments)
        self.befores: list[Any] = []
        self.expected: list[tuple[int, ...]] = []
        state: tuple[int, ...] = ()
        for k in range(num_segments):
            segment = Segment((k,), lambda meta, state, inputs: None, None, k + 1)
            self.befores.append(self.states.add(segment, state))
            self.expected.append(state)
            state = (*state, k)

    def _run(self, segment: Segment, state: Any) -> Any:
        self.runs.append(segment.k - 1)
        return (*state, segment.k - 1)

    @property
    def num_kept(self) -> int:
        return len(self.states._kept)


@pytest.mark.parametrize("num_segments", [1, KEEP_ALL, KEEP_ALL + 1, 25, 100, 101, 120])
def test_the_states_before_the_segments_come_back_from_the_last_to_the_first(num_segments: int) -> None:
    walk = Walk(num_segments)
    most = walk.num_kept
    for before, expected in zip(reversed(walk.befores), reversed(walk.expected), strict=True):
        assert before() == expected
        most = max(most, walk.num_kept)
    assert len(set(walk.runs)) == len(walk.runs), "no segment runs more than once more"
    if num_segments <= KEEP_ALL:
        assert walk.runs == []
    else:
        assert most <= 2 * num_segments**0.5 + 2
        assert walk.runs, "some states are not kept"


def test_any_order_gives_the_same_states() -> None:
    walk = Walk(50)
    for k in (3, 49, 10, 9, 48, 3, 0, 25, 49):
        assert walk.befores[k]() == walk.expected[k]
