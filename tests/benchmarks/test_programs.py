"""Programs that sleep: ready-made updates, and one slow process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.cluster.common.programs import (
    UPDATE,
    SleepProgram,
    SleepRecipe,
    make_params,
    ready_made,
    ready_made_bytes,
)
from benchmarks.cluster.common.sleeps import make_shards, sleep_of
from distmeta.core.types import Snapshot


def test_an_update_does_not_depend_on_the_process_that_computes_it() -> None:
    shard = make_shards([0.0, 0.0, 0.0, 0.001])[3]
    assert sleep_of(shard) == pytest.approx(0.001)
    snapshot = Snapshot(5, {"weight": torch.ones(2)})
    fast, slow = (SleepProgram(slowdown).run(UPDATE, snapshot, shard) for slowdown in (1.0, 3.0))
    assert (fast.version, fast.shard, fast.update.weight) == (5, 3, 4.0)
    assert slow.update.weight == 4.0
    assert torch.equal(fast.update.grad["weight"], slow.update.grad["weight"])


def test_the_first_process_is_slow(tmp_path: Path) -> None:
    recipe = SleepRecipe(8.0, str(tmp_path))
    assert [recipe.build().slowdown for _ in range(3)] == [8.0, 1.0, 1.0]


def test_all_processes_are_alike_by_default(tmp_path: Path) -> None:
    recipe = SleepRecipe(folder=str(tmp_path))
    assert [recipe.build().slowdown for _ in range(2)] == [1.0, 1.0]
    assert not list(tmp_path.iterdir())


def test_parameters_have_the_size_asked_for() -> None:
    for size in (1e5, 2e7):
        assert sum(tensor.nbytes for tensor in make_params(size).values()) == pytest.approx(size, rel=0.05)


def test_a_large_update_shares_its_memory_among_layers() -> None:
    small, large = ready_made(make_params(1e5)), ready_made(make_params(4e7))
    assert len({tensor.data_ptr() for tensor in small.values()}) == len(small)
    assert len({tensor.data_ptr() for tensor in large.values()}) == 1
    assert ready_made_bytes(1e6) == 1e6
    assert ready_made_bytes(80e6) == 10e6
