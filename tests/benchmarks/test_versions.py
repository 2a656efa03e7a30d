"""The engine of another commit beside that of this checkout."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine.versions import CHECKOUT, Version, checked_out, interval, ratios
from distmeta.core.errors import UserError


class FakeVersion:
    """Takes `turn_s` seconds for a run; `calls` notes who ran when."""

    def __init__(self, name: str, run_s: float, calls: list[tuple[str, int]]) -> None:
        self._name, self._run_s, self._calls = name, run_s, calls

    def seconds(self, contender: str, repeats: int) -> float:
        self._calls.append((self._name, repeats))
        return self._run_s * repeats


def test_turns_alternate_and_short_runs_are_repeated() -> None:
    calls: list[tuple[str, int]] = []
    before: Any = FakeVersion("before", 0.02, calls)
    now: Any = FakeVersion("now", 0.01, calls)
    assert ratios(before, now, "vmap", 4) == [2.0] * 4
    names, repeats = zip(*calls[-8:], strict=True)
    assert names == ("now", "before", "before", "now", "now", "before", "before", "now")
    assert set(repeats) == {20}


@pytest.mark.parametrize("count", [1, 2, 5, 6, 12, 24, 31])
def test_the_interval_holds_the_median_so_often(count: int) -> None:
    """Its order statistics against the binomial distribution: the shortest such interval of at least 95%."""
    low, high = interval(list(range(count)))
    assert low + high == count - 1
    outside = 2 * sum(math.comb(count, k) for k in range(low + 1)) / 2**count
    assert outside <= 0.05 or low == 0
    narrower = 2 * sum(math.comb(count, k) for k in range(low + 2)) / 2**count
    assert narrower > 0.05 or low + 1 > high - 1


def test_the_interval_covers_medians_of_samples() -> None:
    draw = random.Random(0).gauss
    found = [interval([draw(1.0, 0.1) for _ in range(15)]) for _ in range(1000)]
    assert sum(low <= 1.0 <= high for low, high in found) >= 950


def test_an_unknown_commit_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: a commit of this checkout"):
        checked_out("no-such-commit", tmp_path)


@pytest.mark.slow
def test_a_process_answers_with_seconds_or_with_why_not() -> None:
    with Version(CHECKOUT, "sine_25x1", threads=1) as version:
        assert 0 < version.seconds("vmap", 1) < 60
        with pytest.raises(RuntimeError, match="nonsense"):
            version.seconds("nonsense", 1)
        assert version.seconds("vmap", 2) > 0
