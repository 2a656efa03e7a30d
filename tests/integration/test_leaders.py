"""Workers under leaders on a real Ray cluster: the same bits as without, whoever dies."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.errors import UserError, WorkerError
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime import build_executor
from distmeta.runtime.ray.led_executor import LedExecutor
from distmeta.server.tree import FAN_IN, Tree, sum_group

from .. import fakes
from ..fakes import FakeRecipe, Trouble, bits, make_params, make_shards

pytestmark = pytest.mark.xdist_group("ray")

UPDATE = Work("update")
PARAMS = {name: tensor for name, tensor in make_params().items() if tensor.is_floating_point()}
COUNT = 3 * FAN_IN + 5
SUMMED = FAN_IN * FAN_IN + COUNT
KILLS = 4

Build = Callable[..., LedExecutor]


@pytest.fixture(scope="module", autouse=True)
def _fakes_by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(fakes)
    yield
    cloudpickle.unregister_pickle_by_value(fakes)


@pytest.fixture
def build(ray_cluster: None) -> Iterator[Build]:
    """Makes executors with four workers under two leaders, and closes them."""
    executors: list[LedExecutor] = []

    def make(recipe: FakeRecipe | None = None, **fields: Any) -> LedExecutor:
        tolerance = {name: fields.pop(name) for name in ToleranceConfig.model_fields.keys() & fields.keys()}
        settings = {"workers": 4, "leaders": 2, "cpus_per_worker": 0.5, "tolerance": tolerance, **fields}
        executor = build_executor(RuntimeConfig(**settings), recipe or FakeRecipe())
        assert isinstance(executor, LedExecutor)
        executors.append(executor)
        executor.ready()
        return executor

    yield make
    for executor in executors:
        executor.close()


def assert_exact(executor: LedExecutor, version: int = 0, count: int = COUNT) -> None:
    """All shards are reported once, as the sums of the server's groups."""
    snapshot, shards = Snapshot(version, PARAMS), make_shards(count)
    reports = {result.shard: result.value for result in executor.map(UPDATE, snapshot, shards, make_shards(count, 7))}
    program = FakeRecipe().build()
    updates = [program.run(UPDATE, snapshot, shard).update for shard in shards]
    expected = {first: sum_group(updates[first : first + FAN_IN]) for first in range(0, count, FAN_IN)}
    assert {first: report.count for first, report in reports.items()} == {
        first: min(FAN_IN, count - first) for first in expected
    }
    for first, total in expected.items():
        update = reports[first].update
        assert bits(update.grad) == bits(total.grad)
        assert (update.weight, update.metrics) == (total.weight, total.metrics)
    assert {report.version for report in reports.values()} == {version}


def assert_exact_total(executor: LedExecutor, version: int = 0, count: int = SUMMED) -> dict[int, int]:
    """All shards are reported once, and add up to the server's bits. Returns the shards of each report by the first."""
    snapshot, shards = Snapshot(version, PARAMS), make_shards(count)
    reports = [result.value for result in executor.map(UPDATE, snapshot, shards)]
    program, tree, expected = FakeRecipe().build(), Tree(), Tree()
    for report in reports:
        if report.count > 1:
            tree.add_group(report.shard, report.count, report.update)
        else:
            tree.add(report.shard, report.update)
    for shard in shards:
        expected.add(shard.index, program.run(UPDATE, snapshot, shard).update)
    total, wanted = tree.total(), expected.total()
    assert bits(total.grad) == bits(wanted.grad)
    assert (total.weight, total.metrics) == (wanted.weight, wanted.metrics)
    assert sorted(shard for report in reports for shard in report.shards) == list(range(count))
    return {report.shard: report.count for report in reports}


def ready_leaders(executor: LedExecutor) -> list[int]:
    """Process ids of the leaders that are ready."""
    ready = [leader for leader in executor._leader_group.workers if leader.state == "ready"]
    return [leader.ranks[0].location.pid for leader in ready if leader.ranks[0].location]


def worker_pids(executor: LedExecutor) -> set[int]:
    return {worker.ranks[0].location.pid for worker in executor._worker_group.workers if worker.ranks[0].location}


@pytest.mark.slow
def test_leaders_report_groups_to_the_bits_of_the_server(build: Build) -> None:
    executor = build()
    assert executor.num_workers == 4
    for version in range(2):
        assert_exact(executor, version)
    assert_exact(executor, 2, count=1)
    assert list(executor.map(UPDATE, Snapshot(3, PARAMS), [])) == []
    # A reader that leaves early does not disturb the next call.
    next(iter(executor.map(UPDATE, Snapshot(1, PARAMS), make_shards(2 * FAN_IN))))
    assert_exact(executor, 4)
    about = list(executor.map(Work("about"), Snapshot(5, PARAMS), make_shards(COUNT)))
    assert sorted(result.shard for result in about) == list(range(COUNT))
    assert {result.worker for result in about} == set(range(4))
    assert (executor.counts["restarts"], executor.counts["retries"]) == (0, 0)
    results = []
    for result in executor.map(UPDATE, Snapshot(6, PARAMS), make_shards(3)):
        if not results:
            executor.recompute(result)
        results.append(result.value)
    assert [(report.shard, report.count) for report in results] == [(0, 3), (0, 1)]


@pytest.mark.slow
def test_leaders_add_units_to_groups_to_the_bits_of_the_server(build: Build) -> None:
    executor = build(aggregate="node")
    whole = FAN_IN * FAN_IN
    for version in range(2):
        assert assert_exact_total(executor, version) == {0: whole, whole: 3 * FAN_IN, whole + 3 * FAN_IN: 5}
    assert assert_exact_total(executor, 2, FAN_IN + 1) == {0: FAN_IN, FAN_IN: 1}
    assert assert_exact_total(executor, 3, 2 * FAN_IN) == {0: 2 * FAN_IN}
    assert (executor.counts["restarts"], executor.counts["retries"]) == (0, 0)


@pytest.mark.slow
def test_a_group_with_a_shard_that_is_not_finite_is_not_added(build: Build) -> None:
    executor = build(FakeRecipe("nonfinite", shard=FAN_IN + 5), aggregate="node")
    results = list(executor.map(UPDATE, Snapshot(0, {"scale": PARAMS["scale"]}), make_shards(4 * FAN_IN)))
    counts = {result.shard: result.value.count for result in results}
    apart = {shard: 1 for shard in range(FAN_IN, 2 * FAN_IN)}
    assert counts == {0: FAN_IN, **apart, 2 * FAN_IN: FAN_IN, 3 * FAN_IN: FAN_IN}
    assert [result.shard for result in results if not result.value.finite] == [FAN_IN + 5]


@pytest.mark.slow
def test_a_leader_that_dies_with_sums_costs_their_groups(build: Build) -> None:
    executor = build(FakeRecipe(seconds=0.004), aggregate="node")
    assert_exact_total(executor)
    before, draw = worker_pids(executor), random.Random(4)
    for version in range(1, KILLS + 1):
        while not ready_leaders(executor):
            assert_exact_total(executor, version)
        timer = threading.Timer(draw.uniform(0.0, 0.8), os.kill, (draw.choice(ready_leaders(executor)), signal.SIGKILL))
        timer.start()
        assert_exact_total(executor, version)
        timer.join()
        assert_exact_total(executor, version)
    assert executor.counts["leader_lost"] == KILLS
    assert executor.counts["restarts"] == 0
    assert worker_pids(executor) == before


@pytest.mark.slow
def test_a_group_with_a_report_that_is_not_finite_is_reported_one_by_one(build: Build) -> None:
    executor = build(FakeRecipe("nonfinite", shard=5))
    results = []
    for result in executor.map(UPDATE, Snapshot(0, {"scale": PARAMS["scale"]}), make_shards(2 * FAN_IN)):
        results.append(result)
        if result.shard == 5 and not [one for one in results if one.shard == 5][:-1]:
            executor.recompute(result)
    assert sorted(result.shard for result in results) == sorted([*range(FAN_IN + 1), 5])
    first, second = (result.worker for result in results if result.shard == 5)
    assert {result.shard for result in results if not result.value.finite} == {5}
    assert first in range(4) and second in range(4)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["die", "hang"])
def test_a_worker_that_dies_or_hangs_is_replaced_and_adopted_again(
    build: Build, tmp_path: Path, trouble: Trouble
) -> None:
    recipe = FakeRecipe(trouble, shard=FAN_IN + 1, folder=str(tmp_path), seconds=0.01)
    executor = build(recipe, shard_timeout_s=4.0, speculate=False)
    assert_exact(executor)
    assert executor.counts["restarts"] == 1
    assert executor.counts["retries"] >= 1
    executor.ready()
    deadline = time.monotonic() + 60.0
    while executor.num_workers < 4 and time.monotonic() < deadline:
        assert_exact(executor, version=1)
    assert executor.num_workers == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [("raise", WorkerError, "boom at this shard"), ("user_error", UserError, "^store: 'x' is no image")],
)
def test_exceptions_of_the_program_are_raised_in_the_driver(
    build: Build, trouble: Trouble, error: type[Exception], message: str
) -> None:
    executor = build(FakeRecipe(trouble, shard=2))
    with pytest.raises(error, match=message):
        list(executor.map(UPDATE, Snapshot(0, PARAMS), make_shards(4)))


@pytest.mark.slow
def test_a_leader_that_dies_costs_its_groups_and_no_worker(build: Build) -> None:
    executor = build(FakeRecipe(seconds=0.02))
    assert_exact(executor)
    before, draw, version = worker_pids(executor), random.Random(3), 1
    for _ in range(KILLS):
        while not ready_leaders(executor):
            assert_exact(executor, version)
        # Now and then while it leads, and while its last workers are handed over.
        victim, delay_s = draw.choice(ready_leaders(executor)), draw.uniform(0.0, 0.8)
        timer = threading.Timer(delay_s, os.kill, (victim, signal.SIGKILL))
        timer.start()
        until = time.monotonic() + delay_s + 0.2
        while time.monotonic() < until:
            assert_exact(executor, version)
            version += 1
        timer.join()
    while executor.num_workers < 4:
        assert_exact(executor, version)
    assert executor.counts["leader_lost"] == KILLS
    assert executor.counts["restarts"] == 0
    assert worker_pids(executor) == before


def test_a_shard_of_unequal_tasks_has_its_own_bits() -> None:
    """The expected sums differ from shard to shard, or the tests above would prove little."""
    program = FakeRecipe().build()
    shards: list[Shard] = make_shards(2)
    first, second = (bits(program.run(UPDATE, Snapshot(0, PARAMS), shard).update.grad) for shard in shards)
    assert first != second
