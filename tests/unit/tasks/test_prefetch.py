"""The prefetcher: same episodes, at most two ahead, errors where they are waited for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, current_thread

import pytest
import torch

from distmeta.config.tasks import SinusoidTasks
from distmeta.core.types import Episode, Shard, TaskSpec
from distmeta.tasks import Prefetcher
from distmeta.tasks.base import TaskSource
from distmeta.tasks.sinusoid import SinusoidSource

WAIT_S = 10.0


class WatchedSource(TaskSource):
    """Sine waves; notes what was built by which thread, waits for `gate`, and fails for the split `bad`."""

    def __init__(self) -> None:
        self.inner = SinusoidSource(SinusoidTasks(), 0, torch.float32)
        self.seed = 0
        self.built: list[tuple[int, bool]] = []
        self.begun = Event()
        self.gate = Event()
        self.gate.set()

    def episodes(self, specs: Sequence[TaskSpec]) -> Episode:
        in_background = current_thread().name.startswith("prefetch")
        self.begun.set()
        if in_background:
            assert self.gate.wait(WAIT_S)
        self.built.append((specs[0].index, in_background))
        if specs[0].name == "bad":
            raise OSError("the disk is gone")
        return self.inner.episodes(specs)


@pytest.fixture
def source() -> WatchedSource:
    return WatchedSource()


@pytest.fixture
def prefetcher(source: WatchedSource) -> Iterator[Prefetcher]:
    with Prefetcher(source) as prefetcher:
        yield prefetcher
        source.gate.set()


def shard(source: TaskSource, index: int, split: str = "train") -> Shard:
    return Shard(index, source.specs(split, 0, 16)[4 * index : 4 * index + 4])


def same(left: Episode, right: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.tensors(), right.tensors(), strict=True))


def test_episodes_are_the_same_with_and_without_preparation(prefetcher: Prefetcher, source: WatchedSource) -> None:
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


def test_a_shard_is_known_by_its_specs(prefetcher: Prefetcher, source: WatchedSource) -> None:
    prepared = shard(source, 1)
    prefetcher.prepare(prepared)
    prefetcher.prepare(Shard(7, prepared.specs))
    episode, _ = prefetcher.take(Shard(9, prepared.specs))
    assert same(episode, source.inner.episodes(prepared.specs))
    assert len(source.built) == 1


def test_at_most_two_are_ahead_and_the_oldest_gives_way(prefetcher: Prefetcher, source: WatchedSource) -> None:
    source.gate.clear()
    prefetcher.prepare(shard(source, 0))
    assert source.begun.wait(WAIT_S)
    for index in (1, 2, 3):  # 0 is being built and dropped, 1 is dropped before it begins
        prefetcher.prepare(shard(source, index))
    source.gate.set()
    assert same(prefetcher.take(shard(source, 3))[0], source.inner.episodes(shard(source, 3).specs))
    assert same(prefetcher.take(shard(source, 1))[0], source.inner.episodes(shard(source, 1).specs))
    assert (4, True) not in source.built
    assert (4, False) in source.built


def test_what_has_not_begun_is_built_by_the_caller(prefetcher: Prefetcher, source: WatchedSource) -> None:
    source.gate.clear()
    prefetcher.prepare(shard(source, 0))
    assert source.begun.wait(WAIT_S)
    prefetcher.prepare(shard(source, 1))
    prefetcher.take(shard(source, 1))
    assert source.built == [(4, False)]


@pytest.mark.parametrize("prepare", [True, False])
def test_errors_reach_the_caller_and_leave_the_rest_working(
    prefetcher: Prefetcher, source: WatchedSource, prepare: bool
) -> None:
    bad, good = shard(source, 0, "bad"), shard(source, 1)
    if prepare:
        prefetcher.prepare(bad)
        prefetcher.prepare(good)
    with pytest.raises(OSError, match="the disk is gone"):
        prefetcher.take(bad)
    assert same(prefetcher.take(good)[0], source.inner.episodes(good.specs))


def test_take_works_after_close(source: WatchedSource) -> None:
    prefetcher = Prefetcher(source)
    prefetcher.prepare(shard(source, 0))
    prefetcher.close()
    prefetcher.prepare(shard(source, 1))
    assert same(prefetcher.take(shard(source, 1))[0], source.inner.episodes(shard(source, 1).specs))
    assert (4, False) in source.built
    prefetcher.close()
