"""The contract of both executors, and failures of workers on Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.errors import UserError, WorkerError
from distmeta.core.types import Snapshot, Work
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.server.tree import FAN_IN, sum_group

from .. import fakes
from ..fakes import FakeRecipe, Trouble, bits, expected_bits, make_params, make_shards

pytestmark = pytest.mark.xdist_group("ray")

Build = Callable[..., Executor]


@pytest.fixture(scope="module", autouse=True)
def _fakes_by_value() -> Iterator[None]:
    """Workers cannot import the tests."""
    cloudpickle.register_pickle_by_value(fakes)
    yield
    cloudpickle.unregister_pickle_by_value(fakes)


@pytest.fixture
def build(ray_cluster: None) -> Iterator[Build]:
    """Makes executors and closes them."""
    executors: list[Executor] = []

    def make(kind: str = "ray", recipe: FakeRecipe | None = None, **fields: Any) -> Executor:
        tolerance = {name: fields.pop(name) for name in ToleranceConfig.model_fields.keys() & fields.keys()}
        config = RuntimeConfig(**{"executor": kind, "tolerance": tolerance, **fields})
        executors.append(build_executor(config, recipe or FakeRecipe()))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


def assert_exact(executor: Executor, count: int = 7, version: int = 0) -> None:
    snapshot, shards = Snapshot(version, make_params()), make_shards(count)
    results = list(executor.map(Work("update"), snapshot, shards))
    assert sorted(result.shard for result in results) == list(range(count))
    updates = {result.shard: bits(result.value.update.grad) for result in results}
    assert updates == dict(expected_bits(snapshot, shards))
    assert {result.value.version for result in results} == {version}
    assert {(result.data_wait_s, result.compute_s) for result in results} == {(0.25, 0.5)}


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_contract(build: Build, kind: str) -> None:
    executor = build(kind, FakeRecipe(seconds=0.02), workers=2, threads_per_worker=1)
    executor.ready()
    assert executor.num_workers == (1 if kind == "local" else 2)
    if isinstance(executor, RayExecutor):
        assert all(worker.reader for worker in executor._worker_group.workers), "it is on this host"
    assert_exact(executor)
    assert_exact(executor, count=1, version=1)
    assert list(executor.map(Work("update"), Snapshot(2, make_params()), [])) == []

    # A reader that leaves early does not disturb the next call, and a new snapshot of the same version is another one.
    next(iter(executor.map(Work("update"), Snapshot(1, make_params()), make_shards(6))))
    doubled = Snapshot(1, {name: 2 * tensor for name, tensor in make_params().items()})
    (result,) = executor.map(Work("update"), doubled, make_shards(1))
    assert [bits(result.value.update.grad)] == [value for _, value in expected_bits(doubled, make_shards(1))]

    about = list(executor.map(Work("about"), Snapshot(3, make_params()), make_shards(8), make_shards(4, 1000)))
    assert all(result.value["writable"] and result.value["threads"] == 1 for result in about)
    executor.ready()
    about = list(executor.map(Work("about"), Snapshot(3, make_params()), make_shards(8)))
    assert {result.worker for result in about} == set(range(executor.num_workers))
    assert (executor.counts["restarts"], executor.counts["retries"]) == (0, 0)
    executor.close()
    executor.close()


@pytest.mark.slow
def test_workers_that_started_while_the_driver_was_busy_are_ready(build: Build) -> None:
    executors = [build(workers=2, cpus_per_worker=0.5) for _ in range(2)]
    time.sleep(5.0)  # answers of all kinds have arrived and are taken in any order
    for executor in executors:
        executor.ready()
        assert executor.num_workers == 2
        assert_exact(executor)


@pytest.mark.slow
def test_shards_of_the_next_call_are_prepared_by_the_workers_that_will_run_them(build: Build) -> None:
    executor = build(recipe=FakeRecipe(seconds=0.1), workers=2)
    executor.ready()
    results = list(executor.map(Work("about"), Snapshot(0, make_params()), make_shards(2), make_shards(2, 1000)))
    assert {result.shard: result.worker for result in results} == {0: 0, 1: 1}
    assert all(result.value["prepared"][-1] == result.worker for result in results)


@pytest.mark.parametrize("kind", ["local", "ray"])
@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("raise", WorkerError, "ValueError: boom at this shard"),
        pytest.param("user_error", UserError, "^store: 'x' is no image", marks=pytest.mark.slow),
    ],
)
def test_exceptions_of_the_program_are_raised_in_the_driver(
    build: Build, kind: str, trouble: Trouble, error: type[Exception], message: str
) -> None:
    executor = build(kind, FakeRecipe(trouble, shard=2), workers=1)
    with pytest.raises(error, match=message) as caught:
        list(executor.map(Work("update"), Snapshot(0, make_params()), make_shards(4)))
    if error is WorkerError:
        assert "shard 2" in str(caught.value)
        assert "_misbehave" in str(caught.value)
    # The worker lives on.
    assert len(list(executor.map(Work("update"), Snapshot(1, make_params()), make_shards(2)))) == 2
    assert executor.counts["restarts"] == 0


@pytest.mark.slow
def test_an_exception_at_the_start_is_raised_in_the_driver(build: Build) -> None:
    executor = build(recipe=FakeRecipe("build_user_error"), workers=1)
    with pytest.raises(UserError, match=r"^tasks.store: no store 'x'$"):
        executor.ready()


@pytest.mark.slow  # so is one in a run, in test_determinism.py
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_replaced_and_its_shard_run_again(build: Build, tmp_path: Path, workers: int) -> None:
    recipe = FakeRecipe("die", shard=4, folder=str(tmp_path), seconds=0.01)
    executor = build(recipe=recipe, workers=workers, speculate=False)
    assert_exact(executor)
    assert (executor.counts["restarts"], executor.counts["retries"]) == (1, 1)
    assert_exact(executor, version=1)
    assert (executor.counts["restarts"], executor.counts["retries"]) == (1, 1)


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(build: Build, tmp_path: Path) -> None:
    recipe = FakeRecipe("hang", shard=1, folder=str(tmp_path))
    executor = build(recipe=recipe, workers=2, shard_timeout_s=4.0, speculate=False)
    assert_exact(executor)
    assert (executor.counts["restarts"], executor.counts["retries"], executor.counts["timed_out"]) == (1, 1, 1)


@pytest.mark.slow
def test_a_shard_that_hangs_does_not_hold_up_the_step(build: Build, tmp_path: Path) -> None:
    executor = build(recipe=FakeRecipe("hang", shard=1, folder=str(tmp_path), seconds=0.01), workers=2)
    executor.ready()
    assert_exact(executor)
    assert executor.counts["copies"] >= 1
    assert executor.counts["restarts"] == 0


@pytest.mark.slow
def test_a_worker_that_answers_no_heartbeat_is_replaced(build: Build) -> None:
    executor = build(recipe=FakeRecipe(seconds=0.01), workers=2, heartbeat_timeout_s=2.0, speculate=False)
    executor.ready()
    about = list(executor.map(Work("about"), Snapshot(0, make_params()), make_shards(4)))
    os.kill(about[0].value["pid"], signal.SIGSTOP)
    assert_exact(executor)
    assert (executor.counts["restarts"], executor.counts["silent"]) == (1, 1)
    [incident] = executor.incidents()
    assert (incident.kind, incident.worker, incident.outcome) == ("silent", about[0].worker, "restart")
    executor.ready()
    while executor.num_workers < 2:  # the stopped process is killed and its resources go to the new one
        assert_exact(executor, version=1)


@pytest.mark.slow
def test_no_worker_is_taken_for_silent_while_the_driver_was_busy(build: Build) -> None:
    executor = build(recipe=FakeRecipe(seconds=1.0), workers=1, heartbeat_timeout_s=2.0)
    executor.ready()
    for version in range(2):
        time.sleep(2.5 * version)
        assert_exact(executor, count=2, version=version)
    assert executor.counts["restarts"] == 0


@pytest.mark.slow
def test_a_worker_that_keeps_dying_is_excluded(build: Build, tmp_path: Path) -> None:
    executor = build(recipe=FakeRecipe("all_but_one_die", folder=str(tmp_path)), workers=2, max_worker_failures=2)
    executor.ready()
    version = 0
    while not executor.counts["excluded"]:
        assert_exact(executor, version=version)
        version += 1
    assert executor.counts["worker_died"] == 2
    assert_exact(executor, version=version)
    assert executor.num_workers == 1
    incidents = [incident for incident in executor.incidents() if incident.kind == "excluded"]
    assert "failed 2 times in a row" in incidents[0].detail
    assert "ActorDiedError" in incidents[0].detail


@pytest.mark.slow  # its pure parts are tested without Ray
def test_a_result_that_cannot_be_used_is_computed_again_elsewhere(build: Build) -> None:
    executor = build(workers=2, speculate=False)
    executor.ready()
    results = []
    for result in executor.map(Work("update"), Snapshot(0, make_params()), make_shards(4)):
        if not results:
            executor.recompute(result)
        results.append(result)
    workers = [result.worker for result in results if result.shard == results[0].shard]
    assert len(workers) == len(set(workers)) == 2


@pytest.mark.slow  # its pure parts are tested without Ray
def test_groups_are_summed_near_their_workers_to_the_same_bits(build: Build) -> None:
    executor = build(recipe=FakeRecipe(seconds=0.005), workers=2, aggregate="node")
    executor.ready()
    params = {name: tensor for name, tensor in make_params().items() if tensor.is_floating_point()}
    snapshot, shards = Snapshot(3, params), make_shards(2 * FAN_IN + 1)
    results = {result.shard: result.value for result in executor.map(Work("update"), snapshot, shards)}
    assert {first: report.count for first, report in results.items()} == {0: FAN_IN, FAN_IN: FAN_IN, 2 * FAN_IN: 1}
    program = FakeRecipe().build()
    updates = [program.run(Work("update"), snapshot, shard).update for shard in shards]
    for first in (0, FAN_IN):
        expected = sum_group(updates[first : first + FAN_IN])
        assert bits(results[first].update.grad) == bits(expected.grad)
        assert results[first].update.weight == expected.weight
    assert executor.counts["groups"] == 2
    about = list(executor.map(Work("about"), snapshot, make_shards(4)))
    assert len(about) == 4


@pytest.mark.slow
def test_a_group_with_a_report_that_is_not_finite_is_reported_one_by_one(build: Build) -> None:
    executor = build(recipe=FakeRecipe("nonfinite", shard=5), workers=2, aggregate="node")
    executor.ready()
    params = {"scale": make_params()["scale"]}
    results = list(executor.map(Work("update"), Snapshot(0, params), make_shards(2 * FAN_IN)))
    assert sorted(result.shard for result in results) == list(range(FAN_IN + 1))
    assert {result.shard for result in results if not result.value.finite} == {5}
    assert sum(result.value.count for result in results) == 2 * FAN_IN


@pytest.mark.slow
def test_rounded_updates_come_back_as_the_parameters_types(build: Build) -> None:
    for kind in ("local", "ray"):
        executor = build_executor(RuntimeConfig(executor=kind, workers=1), FakeRecipe(), "int8")
        params = {"weight": make_params()["body.weight"]}
        (result,) = executor.map(Work("update"), Snapshot(0, params), make_shards(1))
        executor.close()
        exact = FakeRecipe().build().run(Work("update"), Snapshot(0, params), make_shards(1)[0])
        error = (result.value.update.grad["weight"] - exact.update.grad["weight"]).abs().max()
        assert 0 < error <= exact.update.grad["weight"].abs().max() / 254 * 1.01


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_stream_runs_until_its_feed_ends(build: Build, kind: str) -> None:
    executor = build(kind, FakeRecipe(seconds=0.01), workers=2)
    executor.ready()
    shards = make_shards(9)
    feed = iter((Snapshot(shard.index // 4, make_params()), shard) for shard in shards)
    results = list(executor.stream(Work("update"), lambda: next(feed, None)))
    assert sorted(result.shard for result in results) == list(range(9))
    assert {result.shard: result.value.version for result in results} == {index: index // 4 for index in range(9)}
    assert len({result.worker for result in results}) == executor.num_workers
    assert_exact(executor)


@pytest.mark.slow
def test_a_worker_that_dies_at_its_start_is_replaced(build: Build, tmp_path: Path) -> None:
    executor = build(recipe=FakeRecipe("build_die", folder=str(tmp_path)), workers=1)
    assert_exact(executor, count=2)
    assert (executor.counts["restarts"], executor.counts["retries"]) == (1, 0)


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_ends_the_run(build: Build) -> None:
    executor = build(recipe=FakeRecipe("die_always", shard=1), workers=2, max_shard_retries=1)
    with pytest.raises(
        WorkerError,
        match=r"shard 1 failed 2 times \(runtime.tolerance.max_shard_retries is 1\): worker \d: its process",
    ):
        list(executor.map(Work("update"), Snapshot(0, make_params()), make_shards(4)))


@pytest.mark.slow
def test_two_calls_at_once_are_refused(build: Build) -> None:
    executor = build(workers=1)
    first = executor.map(Work("update"), Snapshot(0, make_params()), make_shards(2))
    next(first)
    assert len(list(executor.map(Work("update"), Snapshot(1, make_params()), make_shards(1)))) == 1
    with pytest.raises(RuntimeError, match="another call was started"):
        next(first)


def test_workers_that_do_not_fit_are_refused(ray_cluster: None) -> None:
    with pytest.raises(
        UserError, match=r"^runtime.workers: not enough resources for 2 workers of 50 CPUs each; the cluster has \d+"
    ):
        RayExecutor(RuntimeConfig(workers=2, cpus_per_worker=50.0), FakeRecipe(), placement_timeout_s=0.5)
