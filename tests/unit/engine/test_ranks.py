"""Lanes over ranks, which are threads here: results in the order of the items, equally many calls of each rank."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from distmeta.core.errors import WorkerError
from distmeta.core.ranks import Ranks
from distmeta.engine import ranks as module
from distmeta.engine.ranks import PART, PartitionLanes, RankLanes
from distmeta.methods.estimators.base import Estimate


class Exchange:
    """What ranks gather, in one process."""

    def __init__(self, world: int) -> None:
        self._barrier, self._values = threading.Barrier(world), [None] * world

    def of(self, rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait(10.0)
            values = list(self._values)
            self._barrier.wait(10.0)
            return values

        return gather


def map_on_all(world: int, items: int, function: Any) -> tuple[list[list[Any]], list[list[int]]]:
    """Results of each rank, and the items that each computed."""
    exchange = Exchange(world)

    def rank_of(rank: int) -> tuple[list[Any], list[int]]:
        computed: list[int] = []
        lanes = RankLanes(Ranks(rank, world, gather=exchange.of(rank)))
        return lanes.map(lambda item: computed.append(item) or function(rank, item), range(items)), computed

    with ThreadPoolExecutor(world) as pool:
        results, computed = zip(*pool.map(rank_of, range(world)), strict=True)
    return list(results), list(computed)


@pytest.mark.parametrize(("world", "items"), [(1, 3), (2, 1), (2, 4), (2, 5), (3, 2), (3, 7)])
def test_every_rank_has_all_results_in_order_after_equally_many_calls(world: int, items: int) -> None:
    results, computed = map_on_all(world, items, lambda rank, item: {"item": item, "rank": rank})
    assert results == [[{"item": item, "rank": item % world} for item in range(items)]] * world
    assert len({len(each) for each in computed}) == 1
    assert set().union(*computed) == set(range(items))


def test_nothing_to_do_is_no_call() -> None:
    assert map_on_all(2, 0, lambda rank, item: item) == ([[], []], [[], []])


def test_ranks_that_gathered_unequally_often_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uneven:
        """Counts one more at each look."""

        seen = 4

        @property
        def count(self) -> int:
            self.seen += 1
            return self.seen

    monkeypatch.setattr(module, "gatherings", Uneven())
    with pytest.raises(WorkerError, match=r"gathered frozen weights [56], [56] times: all must make the same calls"):
        map_on_all(2, 2, lambda rank, item: item)


@pytest.mark.parametrize(("tasks", "world", "chunk"), [(6, 2, 3), (7, 2, 4), (1, 3, 1)])
def test_a_chunk_is_the_shard_divided_by_the_ranks(tasks: int, world: int, chunk: int) -> None:
    assert RankLanes(Ranks(0, world)).chunk(tasks) == chunk


@pytest.mark.parametrize(("world", "items"), [(1, 2), (2, 4), (2, 5), (3, 7)])
def test_each_rank_has_its_part_of_every_gradient_in_order(world: int, items: int) -> None:
    """Three entries a rank; item i has the gradient i, i + 0.1, ... and is known to all by its metric."""
    size, exchange, gradients = 3, Exchange(world), Exchange(world)

    def estimate(item: int) -> Estimate:
        grad = {"w": item + torch.arange(size * world) / 10}
        return Estimate(grad, {"item": torch.tensor([item])}, {}, {})

    def rank_of(rank: int) -> list[Estimate]:
        def divide(grad: dict[str, torch.Tensor]) -> list[torch.Tensor]:
            return [whole["w"].split(size)[rank] for whole in gradients.of(rank)(grad)]

        lanes = PartitionLanes(Ranks(rank, world, gather=exchange.of(rank)), divide, chunk=1)
        assert lanes.chunk(items) == 1
        return list(lanes.stream(estimate, range(items)))

    with ThreadPoolExecutor(world) as pool:
        for rank, found in enumerate(pool.map(rank_of, range(world))):
            assert [int(each.metrics["item"]) for each in found] == list(range(items))
            for item, each in enumerate(found):
                assert each.grad.keys() == {PART}
                assert torch.equal(each.grad[PART], estimate(item).grad["w"].split(size)[rank])
