from __future__ import annotations

from collections.abc import Callable

from benchmarks.timing import interleaved, repeats_for, timed


class FakeClock:
    """Seconds that pass only when a fake contender runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_every_round_runs_each_contender_once_and_starts_with_another_one() -> None:
    clock = FakeClock()
    runs = {name: clock.contender(name, seconds) for name, seconds in {"a": 1.0, "b": 2.0, "c": 4.0}.items()}
    seconds = interleaved(runs, 4, clock=clock)
    assert "".join(clock.order) == "abc" + "bca" + "cab" + "abc"
    assert seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [4.0] * 4}


def test_repeats_happen_within_one_turn_and_the_time_is_that_of_one_run() -> None:
    clock = FakeClock()
    runs = {"a": clock.contender("a", 0.5), "b": clock.contender("b", 1.0)}
    assert interleaved(runs, 2, {"a": 3, "b": 1}, clock) == {"a": [0.5, 0.5], "b": [1.0, 1.0]}
    assert "".join(clock.order) == "aaab" + "baaa"


def test_without_contenders() -> None:
    assert interleaved({}, 3) == {}


def test_short_runs_are_repeated() -> None:
    clock = FakeClock()
    assert timed(clock.contender("a", 0.25), clock) == 0.25
    assert [repeats_for(seconds) for seconds in (0.0, 0.001, 0.02, 0.05, 9.0)] == [1, 50, 3, 1, 1]
