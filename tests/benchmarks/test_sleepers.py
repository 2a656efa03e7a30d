"""Workers that sleep: one of them is slow, all give the same updates."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.cluster.sleepers import SleeperRecipe
from distmeta.core.types import Shard, Snapshot, TaskSpec


def test_an_update_does_not_depend_on_who_computes_it() -> None:
    shard = Shard(3, (TaskSpec(3, 3, "train"),))
    snapshot = Snapshot(5, {"weight": torch.ones(2)})
    fast, slow = SleeperRecipe(0.0).build(), SleeperRecipe(0.001).build()
    one, other = fast.run("update", snapshot, shard), slow.run("update", snapshot, shard)
    assert (one.version, one.shard, one.update.weight) == (5, 3, 1.0)
    assert torch.equal(one.update.grad["weight"], torch.full((2,), 4.0))
    assert torch.equal(one.update.grad["weight"], other.update.grad["weight"])


def test_the_first_one_is_slow(tmp_path: Path) -> None:
    recipe = SleeperRecipe(0.5, 8.0, str(tmp_path))
    assert [recipe.build().seconds for _ in range(3)] == [4.0, 0.5, 0.5]


def test_all_are_alike_unless_asked(tmp_path: Path) -> None:
    recipe = SleeperRecipe(0.5, folder=str(tmp_path))
    assert [recipe.build().seconds for _ in range(2)] == [0.5, 0.5]
    assert not list(tmp_path.iterdir())
