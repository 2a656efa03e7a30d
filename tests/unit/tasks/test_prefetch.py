"""The prefetcher: same episodes, at most two prepared ahead, errors raised by `take`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from threading import Event, current_thread

import pytest
import torch

from distmeta.config.tasks import SinusoidTasks
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Shard, TaskSpec
from distmeta.tasks import Prefetcher
from distmeta.tasks.base import TaskSource
from distmeta.tasks.sinusoid import SinusoidSource

WAIT_S = 10.0


class RecordingSource(TaskSource):
    """Sine waves; records which thread builds what, waits for `gate` in the background, fails for the split `bad`."""

    def __init__(self) -> None:
        self.inner = SinusoidSource(SinusoidTasks(), 0, torch.float32)
        self.seed = 0
        self.built: list[tuple[int, bool]] = []
        self.started = Event()
        self.gate = Event()
        self.gate.set()

    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        return self.inner.batches(split, seeds, roles)

    def episodes(self, specs: Sequence[TaskSpec], roles: Sequence[str] = (SUPPORT, QUERY)) -> Episode:
        in_background = current_thread().name.startswith("prefetch")
        self.started.set()
        if in_background:
            assert self.gate.wait(WAIT_S)
        self.built.append((specs[0].index, in_background))
        if specs[0].split == "bad":
            raise OSError("the disk is gone")
        return self.inner.episodes(specs, roles)


@pytest.fixture
def source() -> RecordingSource:
    return RecordingSource()


@pytest.fixture
def prefetcher(source: RecordingSource) -> Iterator[Prefetcher]:
    prefetcher = Prefetcher(source.episodes)
    yield prefetcher
    source.gate.set()
    prefetcher.close()


def shard(source: TaskSource, index: int, split: str = "train") -> Shard:
    return Shard(index, source.specs(split, 0, 16)[4 * index : 4 * index + 4])


def same(left: Episode, right: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.tensors(), right.tensors(), strict=True))


def test_episodes_are_the_same_with_and_without_preparation(prefetcher: Prefetcher, source: RecordingSource) -> None:
    expected = [source.inner.episodes(shard(source, index).specs) for index in range(4)]
    prefetcher.prepare(shard(source, 0))
    for index in range(4):
        if index < 2:
            prefetcher.prepare(shard(source, index + 1))
        episode, wait_s = prefetcher.take(shard(source, index))
        assert same(episode, expected[index])
        assert wait_s >= 0.0
    assert sorted(index for index, _ in source.built) == [0, 4, 8, 12], "each once"
    assert (12, False) in source.built


def test_shards_with_the_same_specs_are_built_once(prefetcher: Prefetcher, source: RecordingSource) -> None:
    prepared = shard(source, 1)
    prefetcher.prepare(prepared)
    prefetcher.prepare(Shard(7, prepared.specs))
    episode, _ = prefetcher.take(Shard(9, prepared.specs))
    assert same(episode, source.inner.episodes(prepared.specs))
    assert len(source.built) == 1


def test_at_most_two_are_prepared_and_the_oldest_is_dropped(prefetcher: Prefetcher, source: RecordingSource) -> None:
    source.gate.clear()
    prefetcher.prepare(shard(source, 0))
    assert source.started.wait(WAIT_S)
    for index in (1, 2, 3):  # 0 is being built and dropped, 1 is dropped before it starts
        prefetcher.prepare(shard(source, index))
    source.gate.set()
    assert same(prefetcher.take(shard(source, 3))[0], source.inner.episodes(shard(source, 3).specs))
    assert same(prefetcher.take(shard(source, 1))[0], source.inner.episodes(shard(source, 1).specs))
    assert (4, True) not in source.built
    assert (4, False) in source.built


def test_a_build_that_has_not_started_is_done_by_the_caller(prefetcher: Prefetcher, source: RecordingSource) -> None:
    source.gate.clear()
    prefetcher.prepare(shard(source, 0))
    assert source.started.wait(WAIT_S)
    prefetcher.prepare(shard(source, 1))
    prefetcher.take(shard(source, 1))
    assert source.built == [(4, False)]


@pytest.mark.parametrize("prepare", [True, False])
def test_errors_reach_the_caller_and_leave_the_rest_working(
    prefetcher: Prefetcher, source: RecordingSource, prepare: bool
) -> None:
    bad, good = shard(source, 0, "bad"), shard(source, 1)
    if prepare:
        prefetcher.prepare(bad)
        prefetcher.prepare(good)
    with pytest.raises(OSError, match="the disk is gone"):
        prefetcher.take(bad)
    assert same(prefetcher.take(good)[0], source.inner.episodes(good.specs))


def test_close_ends_the_thread_and_take_still_works(source: RecordingSource) -> None:
    prefetcher = Prefetcher(source.episodes)
    threads = set(threading.enumerate())
    prefetcher.prepare(shard(source, 0))
    assert len(set(threading.enumerate()) - threads) == 1
    prefetcher.close()
    assert set(threading.enumerate()) <= threads
    prefetcher.prepare(shard(source, 1))
    assert same(prefetcher.take(shard(source, 1))[0], source.inner.episodes(shard(source, 1).specs))
    assert (4, False) in source.built
    prefetcher.close()
