"""Fair times: one run of each contender per round, so that a machine that slows down slows them all down."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[], float]

# Shorter runs are repeated within their turn: a clock and a scheduler need this long to say something.
SHORTEST_TURN_S = 0.05


def interleaved(
    runs: Mapping[Key, Callable[[], object]], rounds: int, repeats: Mapping[Key, int], clock: Clock = time.perf_counter
) -> dict[Key, list[float]]:
    """Time every contender once a round. Each round begins one contender further, so that nobody has a fixed neighbour.

    Args:
        runs: The contenders, warmed up.
        rounds: Turns of each.
        repeats: Runs within one turn.
        clock: Seconds.

    Returns:
        Seconds of one run, for each contender and round.
    """
    found: dict[Key, list[float]] = {key: [] for key in runs}
    order = list(runs)
    for turn in range(rounds):
        shift = turn % len(order) if order else 0
        for key in order[shift:] + order[:shift]:
            started = clock()
            for _ in range(repeats[key]):
                runs[key]()
            found[key].append((clock() - started) / repeats[key])
    return found


def timed(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of one run."""
    started = clock()
    run()
    return clock() - started


def repeats_for(run_s: float) -> int:
    """Runs that fill a turn, for a run of so many seconds."""
    return max(1, math.ceil(SHORTEST_TURN_S / run_s)) if run_s > 0 else 1


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)
