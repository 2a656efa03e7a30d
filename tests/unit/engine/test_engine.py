from __future__ import annotations

import pytest
import torch

from distmeta.core.types import QUERY, SUPPORT, Batch, Episode
from distmeta.engine.chunks import cut
from distmeta.engine.lifts import LIFTS


@pytest.fixture
def episodes() -> Episode:
    numbers = torch.arange(5.0)
    query = Batch(numbers[:, None], numbers[:, None], mask=numbers[:, None] > 2)
    return Episode({SUPPORT: Batch(numbers[:, None].expand(5, 3)), QUERY: query})


@pytest.mark.parametrize(("size", "counts"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_chunks_cover_the_tasks_in_order(episodes: Episode, size: int | None, counts: list[int]) -> None:
    parts = [chunk.episodes for chunk in cut(episodes, size)]
    assert [chunk.num_tasks for chunk in parts] == counts
    assert torch.equal(torch.cat([chunk.support.inputs for chunk in parts]), episodes.support.inputs)
    assert all(chunk.support.targets is None for chunk in parts)


def test_both_lifts_take_a_function_of_one_task_to_many(episodes: Episode) -> None:
    def task(factor: dict[str, torch.Tensor | None], episode: Episode) -> dict[str, torch.Tensor]:
        assert episode.support.inputs.shape == (3,)
        assert factor["none"] is None and factor["a"] is not None
        return {
            "sum": episode.support.inputs.sum(),
            "query": factor["a"] * episode.query.inputs * episode.query["mask"],
        }

    factors = torch.full((5,), 2.0)
    together = LIFTS["vmap"](task)({"a": factors, "none": None}, episodes)
    one_by_one = [LIFTS["loop"](task)({"a": factors[:1], "none": None}, chunk.episodes) for chunk in cut(episodes, 1)]
    for name, values in together.items():
        assert torch.equal(values, torch.cat([part[name] for part in one_by_one]))
    assert together["sum"].tolist() == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert together["query"].flatten().tolist() == [0.0, 0.0, 0.0, 6.0, 8.0]
