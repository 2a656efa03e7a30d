"""Training tasks that last several outer steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from distmeta.config import QuadraticTasks
from distmeta.core.types import Shard
from distmeta.tasks import build_source

SOURCE = build_source(QuadraticTasks(), 0, torch.float32)


def shards(step: int, lasts: int, count: int = 10, size: int = 4) -> tuple[Shard, ...]:
    return SOURCE.shards("train", step, count, size, lasts)


def test_tasks_of_one_step_are_those_that_they_always_were() -> None:
    specs = [spec for shard in shards(7, 1) for spec in shard.specs]
    assert tuple(specs) == SOURCE.specs("train", 7, 10)


@pytest.mark.parametrize("lasts", [2, 3, 5])
def test_shards_begin_one_after_another_and_last_equally_long(lasts: int) -> None:
    steps = [shards(step, lasts) for step in range(20)]
    begun = []
    for index in range(3):
        assert [len(step[index].specs) for step in steps] == [len(steps[0][index].specs)] * 20
        firsts = [k for k in range(1, 20) if steps[k][index].specs != steps[k - 1][index].specs]
        assert {later - earlier for earlier, later in pairwise(firsts)} == {lasts}
        begun.append(firsts[0] % lasts)
    assert len(set(begun)) == min(3, lasts)
    seeds = {spec.seed for step in steps for shard in step for spec in shard.specs}
    ages = [sum(steps[k][i].specs != steps[k - 1][i].specs for k in range(1, 20)) + 1 for i in range(3)]
    assert len(seeds) == sum(age * len(steps[0][i].specs) for i, age in enumerate(ages))
