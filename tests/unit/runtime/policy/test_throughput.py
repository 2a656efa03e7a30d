"""How fast workers are taken to be."""

from __future__ import annotations

from distmeta.runtime.policy.throughput import MIN_SAMPLES, WINDOW, Throughput


def measured(seconds: dict[int, list[float]]) -> Throughput:
    throughput = Throughput()
    for worker, samples in seconds.items():
        for sample in samples:
            throughput.record(worker, sample)
    return throughput


def test_nothing_is_known_before_the_first_samples() -> None:
    throughput = measured({0: [1.0] * (MIN_SAMPLES - 1)})
    assert throughput.typical() is None
    assert throughput.seconds_per_task(1) is None
    assert not throughput.is_slow(0)
    throughput.record(1, 3.0)
    assert throughput.typical() == 1.0


def test_a_worker_has_the_median_of_its_newest_samples() -> None:
    throughput = measured({0: [9.0] * WINDOW + [1.0, 2.0, 3.0]})
    assert throughput.seconds_per_task(0) == 3.0
    throughput.record(0, 2.0)
    assert throughput.seconds_per_task(0) == 2.0


def test_an_unknown_worker_counts_as_the_typical_one() -> None:
    throughput = measured({0: [1.0], 1: [2.0], 2: [8.0]})
    assert throughput.typical() == 2.0
    assert throughput.seconds_per_task(3) == 2.0
    assert not throughput.is_slow(3)


def test_slow_is_beyond_half_as_much_again_as_typical() -> None:
    throughput = measured({0: [1.0], 1: [1.0], 2: [1.5], 3: [1.6]})
    assert [throughput.is_slow(worker) for worker in range(4)] == [False, False, False, True]


def test_a_removed_worker_counts_as_the_typical_one() -> None:
    throughput = measured({0: [1.0] * 3, 1: [8.0] * 3})
    assert throughput.is_slow(1)
    throughput.remove(1)
    assert not throughput.is_slow(1)
    assert throughput.seconds_per_task(1) == 1.0
    throughput.remove(0)
    assert throughput.typical() is None
