"""Interleaved timing: each contender runs once a round, so that a drift of the machine's speed affects all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[], float]

MIN_TURN_S = 0.05
"""Runs shorter than this are repeated within their turn: clock and scheduler cannot resolve them."""


def interleaved(
    runs: Mapping[Key, Callable[[], object]],
    rounds: int,
    repeats: Mapping[Key, int] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[Key, list[float]]:
    """Time every contender once a round. Each round starts one contender later, so that neighbours change.

    Args:
        runs: The contenders, warmed up.
        rounds: Turns of each.
        repeats: Runs within one turn of each; None runs each once.
        clock: Seconds.

    Returns:
        Seconds of one run, for each contender and round.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    order = list(runs)
    for turn in range(rounds):
        shift = turn % len(order) if order else 0
        for key in order[shift:] + order[:shift]:
            count = 1 if repeats is None else repeats[key]
            started = clock()
            for _ in range(count):
                runs[key]()
            seconds[key].append((clock() - started) / count)
    return seconds


def timed(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    started = clock()
    run()
    return clock() - started


def repeats_for(run_s: float, turn_s: float = MIN_TURN_S) -> int:
    """Number of runs of `run_s` seconds that fill a turn."""
    return max(1, math.ceil(turn_s / run_s)) if run_s > 0 else 1
