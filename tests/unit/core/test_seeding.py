"""Counter-based random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distmeta.core.seeding import _GOLDEN, _splitmix64, bits, choice, mix, mix_indices, normal, uniform

MIXED = 692140941122319693
SEEDS = np.arange(2000, dtype=np.uint64)


def test_bits_are_those_of_the_reference_implementation_of_splitmix64() -> None:
    """The first outputs of Vigna's `splitmix64.c` for the state 1234567."""
    states = np.array([1234567], dtype=np.uint64) + np.arange(3, dtype=np.uint64) * _GOLDEN
    assert _splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_draw_depends_on_its_seed_and_stream_alone() -> None:
    together = bits(SEEDS, "a", 5)
    assert together.shape == (2000, 5)
    np.testing.assert_array_equal(bits(SEEDS[7:8], "a", 5)[0], together[7])
    np.testing.assert_array_equal(bits(SEEDS, "a", 3), together[:, :3])
    assert not np.isin(bits(SEEDS, "b", 5), together).any()
    assert len(np.unique(together)) == together.size


def test_mixed_seeds_are_63_bits_and_depend_on_every_part_and_its_position() -> None:
    seeds = {mix(*parts) for parts in [(0,), (1,), (0, 0), (0, 1), (1, 0), ("a",), ("a", 0), (0, "a"), (-1,), (2**70,)]}
    assert len(seeds) == 9, "0 and 2^70 are equal modulo 2^64"
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(0, "train", 3, 1) == mix(0, "train", 3, 1)


@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=5))
def test_mixed_seeds_are_those_of_the_hash_of_arrays(parts: list[int]) -> None:
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = _splitmix64(state ^ np.uint64(part % 2**64))
    assert mix(*parts) == int(state[0]) >> 1
    assert mix(0, "train", 17, 3) == MIXED, "no release changes the tasks of a seed"


def test_uniform_numbers_have_the_moments_of_their_distribution() -> None:
    values = uniform(SEEDS, "u", 50)
    assert 0.0 <= values.min() < values.max() < 1.0
    assert values.mean() == pytest.approx(0.5, abs=0.005)
    assert values.var() == pytest.approx(1 / 12, abs=0.002)


def test_normal_numbers_have_the_moments_of_their_distribution() -> None:
    values = normal(SEEDS, "n", 50)
    assert np.isfinite(values).all()
    assert values.mean() == pytest.approx(0.0, abs=0.02)
    assert values.var() == pytest.approx(1.0, abs=0.02)
    assert (values**4).mean() == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_choices_are_distinct_and_uniform_at_every_position(count: int) -> None:
    chosen = choice(SEEDS, "c", 7, count)
    assert chosen.shape == (2000, count)
    assert all(len(set(row)) == count for row in chosen.tolist())
    for position in range(count):
        assert np.bincount(chosen[:, position], minlength=7).min() > 200


def test_more_choices_than_there_are_raise() -> None:
    with pytest.raises(ValueError, match="cannot choose 8 of 7"):
        choice(SEEDS, "c", 7, 8)


@pytest.mark.parametrize("parts", [(), (0,), (2**70, "train", 3), (-1, "a")])
def test_indices_are_mixed_as_one_by_one(parts: tuple[int | str, ...]) -> None:
    assert mix_indices(5, *parts) == [mix(*parts, index) for index in range(5)]
    assert mix_indices(0, *parts) == []
