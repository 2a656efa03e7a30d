"""The executor on a fake Ray: what happens when workers die or objects are lost, and that no bit depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from ray.exceptions import ActorDiedError, RayError

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Params, Snapshot, Work
from distmeta.runtime.executor import Result
from distmeta.runtime.ray import supervisor
from distmeta.runtime.ray.actor import WorkerActor
from distmeta.runtime.ray.aggregation import LARGE_UPDATE_BYTES, aggregates_on_nodes
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.server.tree import FAN_IN, sum_group

from ....fakes import FakeRecipe, bits, make_params, make_shards
from .fake_ray import FakeActor, FakeRay, FakeRef, Fault, install, object_lost

UPDATE = Work("update")
PARAMS: Params = {name: tensor for name, tensor in make_params().items() if tensor.is_floating_point()}
SNAPSHOT = Snapshot(3, PARAMS)

Build = Callable[..., RayExecutor]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay(nodes=("a", "b"))
    install(monkeypatch, ray)
    return ray


@pytest.fixture
def build(fake: FakeRay) -> Iterator[Build]:
    """Makes an executor whose workers are ready."""
    executors: list[RayExecutor] = []

    def make(recipe: FakeRecipe | None = None, workers: int = 2, **tolerance: object) -> RayExecutor:
        settings = ToleranceConfig(**{"aggregate": "node", "speculate": False, **tolerance})
        executors.append(RayExecutor(RuntimeConfig(workers=workers, tolerance=settings), recipe or FakeRecipe()))
        executors[-1].ready()
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


def at_call(number: int, method: str, error: Callable[[], RayError]) -> Fault:
    """A fault at one call of a method, by its number among all workers' calls of that method."""
    count = 0

    def fault(actor: FakeActor, called: str) -> RayError | None:
        nonlocal count
        count += called == method
        return error() if called == method and count == number + 1 else None

    return fault


def always(method: str, error: Callable[[], RayError]) -> Fault:
    return lambda actor, called: error() if called == method else None


def expected() -> dict[int, Params]:
    """Sums of two groups and the shard behind them."""
    program = FakeRecipe().build()
    updates = [program.run(UPDATE, SNAPSHOT, shard).update for shard in make_shards(2 * FAN_IN + 1)]
    firsts = (0, FAN_IN, 2 * FAN_IN)
    return {first: sum_group(updates[first : first + FAN_IN]).grad for first in firsts}


def assert_exact(results: list[Result]) -> None:
    assert sum(result.value.count for result in results) == 2 * FAN_IN + 1
    sums = {result.shard: bits(result.value.update.grad) for result in results}
    assert sums == {first: bits(grad) for first, grad in expected().items()}


def compute(executor: RayExecutor) -> list[Result]:
    return list(executor.map(UPDATE, SNAPSHOT, make_shards(2 * FAN_IN + 1)))


def test_groups_are_summed_on_the_node_of_their_gradients(fake: FakeRay, build: Build) -> None:
    executor = build()
    assert_exact(compute(executor))
    assert executor.counts["groups"] == 2
    assert {fake.actors[number].node_id for number, method in fake.calls if method == "sum"} == {"a", "b"}
    assert (executor.counts["retries"], executor.counts["restarts"]) == (0, 0)


@pytest.mark.parametrize("number", [0, 5, 16, 32])
def test_a_worker_that_dies_at_a_shard_is_replaced(fake: FakeRay, build: Build, number: int) -> None:
    executor = build()
    fake.fault = at_call(number, "run_split", ActorDiedError)
    assert_exact(compute(executor))
    assert (executor.counts["restarts"], executor.counts["worker_died"]) == (1, 1)
    assert len(fake.actors) == 3


def test_a_worker_that_dies_at_a_sum_is_replaced_and_the_group_computed_again(fake: FakeRay, build: Build) -> None:
    executor = build()
    fake.fault = at_call(1, "sum", ActorDiedError)
    assert_exact(compute(executor))
    assert (executor.counts["restarts"], executor.counts["worker_died"]) == (1, 1)
    assert executor.counts["retries"] >= FAN_IN
    assert executor.counts["groups"] == 2


def test_a_group_whose_gradients_are_lost_is_computed_again(fake: FakeRay, build: Build) -> None:
    executor = build()
    fake.fault = at_call(0, "sum", object_lost)
    assert_exact(compute(executor))
    assert (executor.counts["restarts"], executor.counts["object_lost"]) == (0, 1)
    assert executor.counts["retries"] == FAN_IN + 1


def test_a_group_whose_gradients_are_lost_again_and_again_ends_the_run(fake: FakeRay, build: Build) -> None:
    executor = build(max_shard_retries=2)
    fake.fault = always("sum", object_lost)
    with pytest.raises(WorkerError, match=r"shard \d+ failed 3 times \(runtime.tolerance.max_shard_retries is 2\)"):
        compute(executor)


def test_a_sum_that_kills_every_worker_ends_the_run(fake: FakeRay, build: Build) -> None:
    executor = build(max_shard_retries=2, max_worker_failures=100)
    fake.fault = always("sum", ActorDiedError)
    with pytest.raises(WorkerError, match=r"shard \d+ failed 3 times"):
        compute(executor)


def test_a_sum_that_raises_on_two_workers_ends_the_run(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no sum")

    monkeypatch.setattr(WorkerActor, "sum", broken)
    executor = build()
    with pytest.raises(WorkerError, match=r"shard \d+ on worker \d: ValueError: no sum"):
        compute(executor)


def test_a_single_gradient_that_is_lost_is_computed_again(
    fake: FakeRay, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = build()
    losses = [object_lost()]
    get = fake.get

    def lossy(ref: FakeRef, timeout: float | None = None) -> object:
        if type(getattr(ref, "value", None)).__name__ == "ParamsWire" and losses:
            raise losses.pop()
        return get(ref, timeout)

    monkeypatch.setattr(fake, "get", lossy)
    results = list(executor.map(UPDATE, SNAPSHOT, make_shards(1)))
    assert bits(results[0].value.update.grad) == bits(
        FakeRecipe().build().run(UPDATE, SNAPSHOT, make_shards(1)[0]).update.grad
    )
    assert [(each.kind, each.shard, each.outcome) for each in executor.incidents()] == [("object_lost", 0, "retry")]
    assert executor.counts["retries"] == 1


def test_a_group_with_a_nonfinite_report_is_reported_shard_by_shard(build: Build) -> None:
    executor = build(FakeRecipe("nonfinite", shard=5))
    results = list(executor.map(UPDATE, Snapshot(0, {"x": torch.ones(3)}), make_shards(2 * FAN_IN)))
    assert sorted(result.shard for result in results) == list(range(FAN_IN + 1))
    assert [result.shard for result in results if not result.value.finite] == [5]


def test_a_report_of_an_earlier_call_is_not_yielded(build: Build) -> None:
    executor = build()
    iterator = executor.map(UPDATE, SNAPSHOT, make_shards(3 * FAN_IN))
    next(iterator)
    assert_exact(compute(executor))
    with pytest.raises(RuntimeError, match="another call was started"):
        next(iterator)


def test_a_worker_on_a_draining_node_is_restarted_elsewhere(
    fake: FakeRay, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(supervisor, "NODE_CHECK_INTERVAL_S", 0.0)
    executor = build(aggregate="driver")
    fake.draining = {"b"}
    results = list(executor.map(UPDATE, SNAPSHOT, make_shards(8)))
    assert sorted(result.shard for result in results) == list(range(8))
    assert (executor.counts["left"], executor.counts["restarts"]) == (1, 0)


def test_the_snapshot_is_put_once_for_all_shards_and_again_for_another_of_the_same_version(
    fake: FakeRay, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = build()
    puts: list[object] = []
    put = fake.put
    monkeypatch.setattr(fake, "put", lambda value: (puts.append(value), put(value))[1])
    for snapshot in (SNAPSHOT, SNAPSHOT, Snapshot(3, dict(PARAMS))):
        assert sum(result.value.count for result in executor.map(UPDATE, snapshot, make_shards(4))) == 4
    assert len(puts) == 2


@pytest.mark.parametrize(
    ("setting", "num_nodes", "num_bytes", "on_nodes"),
    [
        ("driver", 8, LARGE_UPDATE_BYTES, False),
        ("node", 1, 4, True),
        ("auto", 1, LARGE_UPDATE_BYTES, False),
        ("auto", 2, LARGE_UPDATE_BYTES - 4, False),
        ("auto", 2, LARGE_UPDATE_BYTES, True),
    ],
)
def test_large_updates_of_several_nodes_are_summed_on_their_nodes(
    setting: str, num_nodes: int, num_bytes: int, on_nodes: bool
) -> None:
    params = {"x": torch.empty(num_bytes // 4)}
    assert aggregates_on_nodes(setting, num_nodes, params) is on_nodes  # type: ignore[arg-type]
