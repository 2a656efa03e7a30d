"""Workers of several ranks on a fake Ray: phases of the start, shards, failures of one rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core import ranks
from distmeta.core.errors import PeerError, UserError, WorkerError
from distmeta.core.types import Snapshot, Work
from distmeta.runtime.executor import Recipe
from distmeta.runtime.process_group import ProcessGroup, open_store, use_interface_of
from distmeta.runtime.ray import rank as rank_module
from distmeta.runtime.ray import worker_group as worker_group_module
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.runtime.ray.startup import CHECKS, PHASES, StartUp, phase_of
from distmeta.server.tree import FAN_IN, sum_group

from ....fakes import FakeProgram, FakeRecipe, bits, expected_bits, make_params, make_shards
from .fake_ray import FakeActor, FakeRay, install

UPDATE = Work("update")
SNAPSHOT = Snapshot(3, make_params())
Build = Callable[..., RayExecutor]


@dataclass
class FakeStore:
    port: int = 4711


class FakeGroup:
    """A process group that needs no other process."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay(nodes=("b", "a"))
    install(monkeypatch, ray)
    monkeypatch.setattr(rank_module, "open_store", lambda *_: FakeStore())
    monkeypatch.setattr(rank_module, "ProcessGroup", FakeGroup)
    monkeypatch.setattr(ranks, "current", ranks.Ranks())
    monkeypatch.setattr(worker_group_module, "LOST_RANK_TIMEOUT_S", 0.0)
    return ray


@pytest.fixture
def build(fake: FakeRay) -> Iterator[Build]:
    """Makes an executor of workers with two ranks each."""
    executors: list[RayExecutor] = []

    def make(recipe: Recipe | None = None, workers: int = 1, **tolerance: Any) -> RayExecutor:
        settings = ToleranceConfig(**{"speculate": False, "aggregate": "driver", **tolerance})
        config = RuntimeConfig(workers=workers, ranks=2, tolerance=settings)
        executors.append(RayExecutor(config, recipe or FakeRecipe()))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


def assert_exact(executor: RayExecutor, count: int = 5) -> None:
    results = list(executor.map(UPDATE, SNAPSHOT, make_shards(count)))
    found = [(result.shard, bits(result.value.update.grad)) for result in results]
    assert sorted(found) == sorted(expected_bits(SNAPSHOT, make_shards(count)))


def fail_once(number: int, method: str, make: Callable[[], RayError]) -> Callable[[FakeActor, str], RayError | None]:
    """A fault at the first call of a method of one actor."""
    open_faults = [make]

    def fault(actor: FakeActor, called: str) -> RayError | None:
        return open_faults.pop()() if open_faults and (actor.number, called) == (number, method) else None

    return fault


def test_the_start_goes_phase_by_phase_with_the_ranks_sorted_by_node(fake: FakeRay, build: Build) -> None:
    executor = build()
    executor.ready()
    # Actor 0 is on node b, actor 1 on node a, so that actor 1 is rank 0.
    assert fake.calls == [
        (0, "locate"),
        (1, "locate"),
        (1, "open_store"),
        (1, "join"),
        (0, "join"),
        (1, "start"),
        (0, "start"),
    ]
    assert fake.placements == [{"CPU": 1.0}]
    [incident] = executor.incidents()
    assert (incident.kind, incident.outcome) == ("started", "")
    assert incident.detail.startswith(
        "2 ranks have started: placement 0.0 s, address 0.0 s, process group 0.0 s, model"
    )
    executor.close()
    assert fake.placements == []
    assert [actor.alive for actor in fake.actors] == [False, False]


def test_all_ranks_compute_every_shard_in_the_same_order_and_one_reports(fake: FakeRay, build: Build) -> None:
    executor = build()
    executor.ready()
    fake.calls.clear()
    assert_exact(executor)
    assert [method for number, method in fake.calls if number == 1] == ["run"] * 5
    while fake.queue:
        fake.run(fake.queue.popleft())
    assert [method for number, method in fake.calls if number == 0] == ["follow"] * 5
    assert (executor.counts["restarts"], executor.counts["retries"]) == (0, 0)


def test_two_workers_of_two_ranks_double_late_shards_and_sum_groups_near_them(fake: FakeRay, build: Build) -> None:
    executor = build(workers=2, speculate=True, aggregate="node")
    executor.ready()
    assert len(fake.placements) == 2
    params = {name: tensor for name, tensor in make_params().items() if tensor.is_floating_point()}
    snapshot, shards = Snapshot(3, params), make_shards(2 * FAN_IN)
    results = {result.shard: result.value for result in executor.map(UPDATE, snapshot, shards)}
    assert {first: report.count for first, report in results.items()} == {0: FAN_IN, FAN_IN: FAN_IN}
    program = FakeRecipe().build()
    for first, report in results.items():
        updates = [program.run(UPDATE, snapshot, shard).update for shard in shards[first : first + FAN_IN]]
        assert bits(report.update.grad) == bits(sum_group(updates).grad)
    assert {method for _, method in fake.calls} >= {"run_split", "follow", "sum"}


@pytest.mark.parametrize(("number", "method"), [(1, "run"), (0, "follow")])
def test_a_rank_that_dies_is_the_failure_of_its_worker(fake: FakeRay, build: Build, number: int, method: str) -> None:
    executor = build()
    executor.ready()
    executor.incidents()
    fake.fault = fail_once(number, method, ActorDiedError)
    assert_exact(executor)
    assert (executor.counts["worker_died"], executor.counts["restarts"]) == (1, 1)
    assert [actor.alive for actor in fake.actors] == [False, False, True, True]
    assert len(fake.placements) == 1
    died, started, joined = executor.incidents()
    assert (started.kind, joined.kind) == ("started", "joined")
    assert died.detail == f"rank {1 - number}: its process died (ActorDiedError)"


def test_the_rank_that_died_is_named_although_another_one_failed_first(fake: FakeRay, build: Build) -> None:
    executor = build()
    executor.ready()
    executor.incidents()

    def fault(actor: FakeActor, method: str) -> RayError | None:
        if actor.number == 1 and method == "run":
            fake.actors[0].alive = False
            while fake.queue:  # what the dead rank was asked for fails as well
                fake.run(fake.queue.popleft())
            return RayTaskError("run", "PeerError", PeerError("an exchange with the other ranks failed"))
        return None

    fake.fault = fault
    assert_exact(executor)
    assert (executor.counts["worker_died"], executor.counts["peer_lost"]) == (1, 0)
    assert executor.incidents()[0].detail == "rank 1: its process died (ActorDiedError)"


def test_a_lost_peer_whose_process_lives_is_retried_on_new_processes(fake: FakeRay, build: Build) -> None:
    executor = build()
    executor.ready()
    fake.fault = fail_once(1, "run", lambda: RayTaskError("run", "PeerError: gone", PeerError("gone")))
    assert_exact(executor)
    assert (executor.counts["peer_lost"], executor.counts["restarts"]) == (1, 1)


def test_what_a_program_raises_on_any_rank_ends_the_run(
    fake: FakeRay, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("boom on rank 1")

    monkeypatch.setattr(rank_module.RankActor, "follow", broken)
    executor = build()
    executor.ready()
    with pytest.raises(WorkerError, match="boom on rank 1"):
        list(executor.map(UPDATE, SNAPSHOT, make_shards(3)))


def test_a_shard_that_others_have_finished_is_not_skipped(fake: FakeRay, build: Build) -> None:
    executor = build()
    executor.ready()
    fake.calls.clear()
    executor._worker_group.cancel(executor._worker_group.workers[0], (1, 0))
    assert fake.calls == []


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("place", "name", "error", "message"),
    [
        ("open_store", "address", OSError("no port"), "rank 0: start-up phase 2 of 4 (address) failed after"),
        (
            "ProcessGroup",
            "process group",
            PeerError("rank 1 of 2 did not come within 60 s"),
            "rank 0: start-up phase 3 of 4 (process group) failed after",
        ),
    ],
)
def test_a_phase_that_fails_says_which_and_what_to_check(
    fake: FakeRay, build: Build, monkeypatch: pytest.MonkeyPatch, place: str, name: str, error: Exception, message: str
) -> None:
    monkeypatch.setattr(rank_module, place, raising(error))
    with pytest.raises(WorkerError) as caught:
        build(max_worker_failures=1).ready()
    text = str(caught.value)
    assert message in text
    assert str(error) in text
    assert CHECKS[name] in text  # type: ignore[index]


@dataclass(frozen=True)
class BrokenRecipe:
    """Cannot be built."""

    error: Exception

    def build(self) -> FakeProgram:
        raise self.error


def test_a_model_that_cannot_be_built_says_so(fake: FakeRay, build: Build) -> None:
    message = (
        r"worker 0, rank 0: start-up phase 4 of 4 \(model\) failed after 0.0 s: ValueError: no weights; check the mem"
    )
    with pytest.raises(WorkerError, match=message):
        build(BrokenRecipe(ValueError("no weights"))).ready()


def test_what_the_user_has_to_fix_is_said_as_it_is(fake: FakeRay, build: Build) -> None:
    with pytest.raises(UserError, match=r"^model: no such file$"):
        build(BrokenRecipe(UserError("no such file", where="model"))).ready()


def test_phases_end_when_all_ranks_have_answered() -> None:
    start = StartUp(3, since=10.0)
    assert not start.answer(0, 11.0)
    assert not start.answer(2, 12.0)
    assert start.delay(71.0) == (
        "start-up phase 1 of 4 (placement) has taken 61 s without an answer from rank 1; check " + CHECKS["placement"]
    )
    assert start.answer(1, 13.0)
    assert start.answer(0, 13.5)  # the address is that of rank 0
    assert "(process group)" in start.delay(14.0)
    assert [start.answer(rank, 20.0) for rank in range(3)] == [False, False, True]
    assert [start.answer(rank, 30.0) for rank in range(3)] == [False, False, True]
    assert start.summary() == "placement 3.0 s, address 0.5 s, process group 6.5 s, model 10.0 s"
    assert list(start.seconds) == list(PHASES)


def test_a_peers_failure_stays_one_within_a_phase() -> None:
    with (
        pytest.raises(PeerError, match=r"phase 4 of 4 \(model\) failed after 0.0 s: gone; check"),
        phase_of("model", 0, 1),
    ):
        raise PeerError("gone")


def test_the_interface_is_that_of_the_nodes_address_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"eth0": [SimpleNamespace(address="10.0.0.1")], "lo": [SimpleNamespace(address="127.0.0.1")]}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: addresses)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    use_interface_of("10.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth0", "ib0")


def test_a_rank_that_does_not_come_is_named() -> None:
    store = open_store("127.0.0.1", 2, 5.0)
    with pytest.raises(PeerError, match=r"^rank 1 of 2 did not come within 0.1 s$"):
        ProcessGroup(0, 2, "127.0.0.1", store.port, "cpu", store, join_timeout_s=0.1, timeout_s=1.0)
