from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import Params
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes, lanes_for

from ...numerics.problems import EXACT, as_type, classification, conv4, gradient, perturbed, terms_of


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    def slower_first(item: int) -> int:
        time.sleep(0.002 * (7 - item))
        return item * item

    lanes = Lanes(count)
    assert lanes.map(slower_first, range(7)) == [item * item for item in range(7)]
    assert lanes.map(slower_first, []) == []


@pytest.mark.parametrize("count", [1, 3])
def test_an_exception_is_raised_and_the_lanes_stay_usable(count: int) -> None:
    def fails(item: int) -> int:
        if item == 2:
            raise ZeroDivisionError(f"item {item}")
        return item

    lanes = Lanes(count)
    with pytest.raises(ZeroDivisionError, match="item 2"):
        lanes.map(fails, range(5))
    assert lanes.map(abs, [-1, -2]) == [1, 2]


def test_one_lane_is_the_calling_thread() -> None:
    before = threading.active_count()
    assert list(Lanes(1).map(lambda _: threading.get_ident(), range(3))) == [threading.get_ident()] * 3
    assert threading.active_count() == before


def test_as_many_lanes_as_requested_run_concurrently() -> None:
    barrier = threading.Barrier(2, timeout=60)

    def meet(_: int) -> int:
        barrier.wait()
        return threading.get_ident()

    threads = set(Lanes(2).map(meet, range(6)))
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.usefixtures("_two_threads")
def test_each_lane_has_one_intra_operation_thread_and_the_caller_keeps_its_setting() -> None:
    lanes = Lanes(2)
    assert set(lanes.map(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("engine", [EngineConfig(strategy="loop"), EngineConfig(strategy="vmap", chunk=2)])
@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_the_number_of_lanes_does_not_change_a_bit(engine: EngineConfig, memory: str) -> None:
    engine = EngineConfig.model_validate({**engine.model_dump(), "memory": memory})
    learner = gradient(conv4(dtype=torch.float32), Phase(lr=0.1, steps=2))
    meta, episodes = perturbed(learner.init(0)), as_type(classification(1, 16, 16, tasks=5), torch.float32)

    def run(lanes: int) -> tuple[Params, dict[str, float]]:
        update, _ = Engine(learner, EXACT, terms_of(episodes), engine, lanes).update(meta, episodes)
        return update.grad, dict(update.metrics)

    grad, metrics = run(1)
    for lanes in (2, 3):
        others, other_metrics = run(lanes)
        assert other_metrics == metrics
        assert all(torch.equal(others[name], tensor) for name, tensor in grad.items())


@pytest.mark.usefixtures("_two_threads")
def test_lanes_have_the_threads_of_a_chunk() -> None:
    assert set(Lanes(2, 3).map(lambda _: torch.get_num_threads(), range(8))) == {3}
    assert torch.get_num_threads() == 2
    assert [lanes_for("cpu", 4, share) for share in (1, 2, 4)] == [4, 2, 1]
    assert lanes_for("cuda", 4) == 1


def test_the_threads_of_a_chunk_set_the_bits_whatever_the_number_of_lanes() -> None:
    config = EngineConfig(strategy="loop", threads_per_chunk=2)
    learner = gradient(conv4(dtype=torch.float32), Phase(lr=0.1, steps=2))
    meta, episodes = perturbed(learner.init(0)), as_type(classification(1, 16, 16, tasks=5), torch.float32)
    exact, _ = Engine(learner, EXACT, terms_of(episodes), EngineConfig(strategy="loop")).update(meta, episodes)
    first, second = (
        Engine(learner, EXACT, terms_of(episodes), config, lanes).update(meta, episodes)[0].grad for lanes in (2, 3)
    )
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor)
        assert torch.allclose(exact.grad[name], tensor, rtol=1e-3, atol=1e-5)
