"""Counter-based random numbers: every draw is a pure function of (seed, split, step, task index).

No generator carries state from one draw to the next, so any worker can build any task, in any order, and get the same
bits. The hash is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"),
applied to arrays: one call draws for all T tasks of a shard.

Shapes: T tasks.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

Uint64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def _splitmix64(state: Uint64) -> Uint64:
    """The SplitMix64 finaliser, element by element (wrap-around is intended)."""
    with np.errstate(over="ignore"):
        z = state + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return z ^ (z >> np.uint64(31))


def mix(*parts: int | str) -> int:
    """Hash integers and strings into one 63-bit seed (63 so that it fits a signed integer everywhere)."""
    return _mixed(parts) >> 1


def mix_indices(count: int, *parts: int | str) -> list[int]:
    """`mix(*parts, index)` for each index below `count`, in a fraction of the time."""
    states = np.uint64(_mixed(parts)) ^ np.arange(count, dtype=np.uint64)
    seeds: list[int] = (_splitmix64(states) >> np.uint64(1)).tolist()
    return seeds


def _mixed(parts: tuple[int | str, ...]) -> int:
    state = 0
    for part in parts:  # Python's integers: an array of one number takes ten times as long, for every task of a run
        value = zlib.crc32(part.encode()) if isinstance(part, str) else part & _MASK
        z = ((state ^ value) + int(_GOLDEN)) & _MASK
        z = ((z ^ (z >> 30)) * int(_MIX_1)) & _MASK
        z = ((z ^ (z >> 27)) * int(_MIX_2)) & _MASK
        state = z ^ (z >> 31)
    return state


def bits(seeds: npt.ArrayLike, stream: str, count: int) -> Uint64:
    """Draw `count` 64-bit words for each seed.

    Args:
        seeds: [T] integer seeds, one per task.
        stream: Name of the draw; different streams are independent.
        count: Words per seed.

    Returns:
        [T, count] uint64.
    """
    base = _splitmix64(np.asarray(seeds).astype(np.uint64) ^ np.uint64(zlib.crc32(stream.encode())))
    counters = np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return _splitmix64(base[:, None] + counters[None, :] * _GOLDEN)


def uniform(seeds: npt.ArrayLike, stream: str, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1): [T, count] float64, 53 bits each."""
    return (bits(seeds, stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seeds: npt.ArrayLike, stream: str, count: int) -> npt.NDArray[np.float64]:
    """Standard normal numbers: [T, count] float64 (Box and Muller 1958)."""
    u = uniform(seeds, stream, 2 * count)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, :count]))
    return radius * np.cos(2.0 * math.pi * u[:, count:])


def choice(seeds: npt.ArrayLike, stream: str, population: int, count: int) -> npt.NDArray[np.int64]:
    """Draw `count` of `range(population)` without replacement for each seed: [T, count] int64, in random order.

    Raises:
        ValueError: `count` is larger than `population`.
    """
    if count > population:
        raise ValueError(f"cannot choose {count} of {population} without repetition")
    keys = bits(seeds, stream, population)
    picked = np.argpartition(keys, count - 1, axis=1)[:, :count] if count < population else None
    if picked is None:
        return np.argsort(keys, axis=1, kind="stable")
    order = np.argsort(np.take_along_axis(keys, picked, axis=1), axis=1, kind="stable")
    return np.take_along_axis(picked, order, axis=1)
