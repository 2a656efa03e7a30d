"""A leader's actor in this process, with workers that answer in its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from distmeta.config import RuntimeConfig, ToleranceConfig
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.runtime.messages import Location, ResultWire, ShardRequest, UnitRequest, pack_shard
from distmeta.runtime.policy.leaders import single_unit
from distmeta.runtime.ray import leader as leader_module
from distmeta.runtime.ray.leader import LeaderActor
from distmeta.runtime.wire import decode_value, encode_snapshot, join_grad
from distmeta.runtime.worker import Worker
from distmeta.server.tree import FAN_IN, sum_group

from ....fakes import FakeRecipe, bits, make_params, make_shards
from .fake_ray import object_lost

UPDATE = Work("update")
PARAMS = {name: tensor for name, tensor in make_params().items() if tensor.is_floating_point()}
WIRE = encode_snapshot(Snapshot(3, PARAMS), 1, UPDATE)


class FakeReference:
    """A reference to the snapshot, which is there at once."""

    def __await__(self) -> Generator[Any, None, Any]:
        return _snapshot().__await__()


async def _snapshot() -> Any:
    return WIRE


WIRE_REF = FakeReference()
SHARDS = make_shards(3 * FAN_IN)

Fault = Callable[[int, int], RayError | None]
"""Returns what a worker's shard fails with, by their numbers; None if it does not."""


@dataclass
class FakeWorker:
    """A worker's actor: answers at once, unless it is `held`."""

    index: int
    recipe: FakeRecipe
    fault: Fault
    held: bool = False
    mute: bool = False
    asked: list[ShardRequest] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    cancelled: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._worker = Worker(self.index, self.recipe.build(), 1)
        self.run = SimpleNamespace(remote=self._run)
        self.cancel = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.cancelled.add))
        self.heartbeat = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._heartbeat))

    def _heartbeat(self) -> asyncio.Future[bool]:
        future = asyncio.get_running_loop().create_future()
        if not self.mute:
            future.set_result(True)
        return future

    def _run(self, packed: bytes, wire: Any, carry: Any = None) -> asyncio.Future[ResultWire | None]:
        request, future = ShardRequest.of(packed), asyncio.get_running_loop().create_future()
        self.asked.append(request)

        def answer() -> None:
            error = self.fault(self.index, request.shard.index)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            elif request.key in self.cancelled:
                future.set_result(None)
            else:
                snapshot = WIRE if wire is WIRE_REF else wire
                future.set_result(self._worker.run(snapshot.work, snapshot, request.shard, request.upcoming))

        if self.held:
            self.waiting.append(answer)
        else:
            asyncio.get_running_loop().call_soon(answer)
        return future


class Scene:
    """A leader and its workers."""

    def __init__(self, num_workers: int, recipe: FakeRecipe, fault: Fault, tolerance: ToleranceConfig) -> None:
        self.actor = LeaderActor()
        self.workers = [FakeWorker(index, recipe, fault) for index in range(num_workers)]
        self._config = RuntimeConfig(workers=num_workers, tolerance=tolerance)

    async def start(self) -> None:
        await self.actor.start(0, self._config)
        for worker in self.workers:
            await self.actor.adopt(worker.index, worker, Location("a", "127.0.0.1", 100 + worker.index))

    async def asked(self) -> None:
        """Wait until the first worker has two shards."""
        while len(self.workers[0].asked) < 2:
            await asyncio.sleep(0)

    async def unit(
        self, unit: int, shards: Sequence[Shard], call_id: int = 1, source: Any = None, **fields: Any
    ) -> Any:
        request = UnitRequest((call_id, unit), "update", tuple(map(pack_shard, shards)), **fields)
        return await asyncio.wait_for(self.actor.unit(request, [WIRE_REF], source), 10.0)

    async def split(self, unit: int, shards: Sequence[Shard]) -> Any:
        request = UnitRequest((1, unit), "update", tuple(map(pack_shard, shards)))
        return await asyncio.wait_for(self.actor.unit_split(request, [WIRE_REF]), 10.0)


def play(
    scenario: Callable[[Scene], Awaitable[None]],
    workers: int = 3,
    recipe: FakeRecipe | None = None,
    fault: Fault = lambda worker, shard: None,
    **tolerance: Any,
) -> None:
    scene = Scene(workers, recipe or FakeRecipe(), fault, ToleranceConfig(**tolerance))

    async def run() -> None:
        await scene.start()
        await scenario(scene)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _located(monkeypatch: pytest.MonkeyPatch) -> None:
    async def locate(self: LeaderActor) -> Location:
        return Location("a", "127.0.0.1", 1)

    monkeypatch.setattr(LeaderActor, "locate", locate)


def once(worker: int | None, shard: int, error: Callable[[], RayError]) -> Fault:
    """A fault the first time that a worker, or any of them, has a shard."""
    faults = [error()]

    def fault(at: int, computed: int) -> RayError | None:
        return faults.pop() if faults and computed == shard and worker in (None, at) else None

    return fault


def assert_group(answer: list[ResultWire], shards: Sequence[Shard]) -> None:
    [result] = answer
    program = FakeRecipe().build()
    expected = sum_group(program.run(UPDATE, Snapshot(3, PARAMS), shard).update for shard in shards)
    report = decode_value(result.value)
    assert (report.version, report.shard, report.count) == (3, shards[0].index, len(shards))
    assert bits(report.update.grad) == bits(expected.grad)
    assert (report.update.weight, report.update.metrics) == (expected.weight, expected.metrics)
    assert (result.data_wait_s, result.compute_s) == (0.25 * len(shards), 0.5 * len(shards))


def test_groups_are_added_to_the_bits_of_the_server_several_at_a_time() -> None:
    async def scenario(scene: Scene) -> None:
        groups = [SHARDS[:FAN_IN], SHARDS[FAN_IN : 2 * FAN_IN], SHARDS[2 * FAN_IN : 2 * FAN_IN + 3]]
        answers = await asyncio.gather(*(scene.unit(unit, group) for unit, group in enumerate(groups)))
        for answer, group in zip(answers, groups, strict=True):
            assert_group(answer, group)
        asked = [request.shard.index for worker in scene.workers for request in worker.asked]
        assert sorted(asked) == list(range(2 * FAN_IN + 3))

    play(scenario)


def test_the_gradient_of_a_sum_is_an_object_of_its_own() -> None:
    async def scenario(scene: Scene) -> None:
        groups = [SHARDS[:FAN_IN], SHARDS[FAN_IN : 2 * FAN_IN]]
        parts = [await scene.split(unit, group) for unit, group in enumerate(groups)]
        for (answer, grad), group in zip(parts, groups, strict=True):
            assert answer[0].value.grad is None
            assert_group([join_grad(answer[0], grad)], group)
        total = await scene.actor.sum([answer[0].value for answer, _ in parts], *(grad for _, grad in parts))
        program = FakeRecipe().build()
        sums = [sum_group(program.run(UPDATE, Snapshot(3, PARAMS), shard).update for shard in each) for each in groups]
        report = decode_value(total)
        assert (report.shard, report.count) == (0, 2 * FAN_IN)
        assert bits(report.update.grad) == bits(sum_group(sums).grad)
        # What is reported one by one keeps its gradients.
        answer, grad = await scene.split(2, SHARDS[2 * FAN_IN : 2 * FAN_IN + 1])
        assert grad is None and decode_value(answer[0].value).update.grad

    play(scenario)


class FakeSource:
    """A leader that is asked whether it has the snapshot."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has = SimpleNamespace(remote=self._has)

    def _has(self, snapshot: list[Any]) -> asyncio.Future[None]:
        self.asked.append(snapshot[0])
        return self.answer


def test_a_leader_waits_until_another_node_has_the_snapshot() -> None:
    async def scenario(scene: Scene) -> None:
        source = FakeSource()
        units = [
            asyncio.ensure_future(scene.unit(unit, SHARDS[unit * FAN_IN : (unit + 1) * FAN_IN], source=source))
            for unit in range(2)
        ]
        await asyncio.sleep(0.05)
        others = asyncio.ensure_future(scene.actor.has([WIRE_REF]))
        await asyncio.sleep(0.05)
        assert source.asked == [WIRE_REF]  # once for both
        assert not any(worker.asked for worker in scene.workers)
        assert not others.done()
        source.answer.set_result(None)
        for unit, future in enumerate(units):
            assert_group(await future, SHARDS[unit * FAN_IN : (unit + 1) * FAN_IN])
        await asyncio.wait_for(others, 10.0)

    play(scenario)


@pytest.mark.parametrize("ends", ["it dies", "it does not answer"])
def test_a_leader_goes_on_without_the_one_it_waits_for(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "RELAY_TIMEOUT_S", 0.05)

    async def scenario(scene: Scene) -> None:
        source = FakeSource()
        if ends == "it dies":
            source.answer.set_exception(ActorDiedError())
        assert_group(await scene.unit(0, SHARDS[:FAN_IN], source=source), SHARDS[:FAN_IN])

    play(scenario)


def test_a_unit_that_is_given_back_while_it_waits_is_not_computed() -> None:
    async def scenario(scene: Scene) -> None:
        source = FakeSource()
        earlier = asyncio.ensure_future(scene.unit(0, SHARDS[:FAN_IN], source=source))
        await asyncio.sleep(0.05)
        assert source.asked
        await scene.actor.cancel_unit((1, 0))
        source.answer.set_result(None)
        assert await earlier is None
        assert not any(worker.asked for worker in scene.workers)

    play(scenario)


def test_a_single_shard_is_computed_again_by_another_worker() -> None:
    async def scenario(scene: Scene) -> None:
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        first = next(w.index for w in scene.workers if 5 in [request.shard.index for request in w.asked])
        [result] = await scene.unit(single_unit(5), SHARDS[5:6], excluded={5: first})
        assert (result.shard, decode_value(result.value).count) == (5, 1)
        assert result.worker != first

    play(scenario)


def test_a_worker_that_dies_is_told_and_its_shards_are_computed_by_others() -> None:
    async def scenario(scene: Scene) -> None:
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        [event] = await scene.actor.events()
        assert (event.worker, event.process, event.key) == (1, 101, (1, 4))
        assert event.failure is not None and event.failure.kind == "worker_died"
        await scene.actor.remove(1)
        # Its replacement is adopted.
        scene.workers[1] = FakeWorker(1, FakeRecipe(), lambda worker, shard: None)
        await scene.actor.adopt(1, scene.workers[1], Location("a", "127.0.0.1", 201))
        assert_group(await scene.unit(1, SHARDS[FAN_IN : 2 * FAN_IN]), SHARDS[FAN_IN : 2 * FAN_IN])
        assert scene.workers[1].asked

    play(scenario, fault=once(1, 4, ActorDiedError), speculate=False)


def test_what_the_program_raised_is_told_with_its_cause() -> None:
    async def scenario(scene: Scene) -> None:
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        [event] = await scene.actor.events()
        assert event.failure is not None
        assert (event.failure.kind, str(event.cause), event.key) == ("program_raised", "boom", (1, 4))

    error = RayTaskError("run", "the traceback\nValueError: boom", ValueError("boom"))  # type: ignore[no-untyped-call]
    play(scenario, fault=once(None, 4, lambda: error), speculate=False)


def test_a_unit_whose_snapshot_is_lost_is_given_back_and_can_be_asked_again() -> None:
    async def scenario(scene: Scene) -> None:
        assert await scene.unit(0, SHARDS[:FAN_IN]) is None
        [event] = await scene.actor.events()
        assert event.failure is not None and event.failure.kind == "object_lost"
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])

    play(scenario, fault=once(None, 4, object_lost))


def test_units_of_an_earlier_call_are_given_back() -> None:
    async def scenario(scene: Scene) -> None:
        for worker in scene.workers:
            worker.held = True
        earlier = asyncio.ensure_future(scene.unit(0, SHARDS[:FAN_IN]))
        await scene.asked()
        for worker in scene.workers:
            worker.held = False
        later = asyncio.ensure_future(scene.unit(1, SHARDS[FAN_IN : 2 * FAN_IN], call_id=2))
        assert await earlier is None
        for worker in scene.workers:
            for answer in worker.waiting:
                answer()
        assert_group(await later, SHARDS[FAN_IN : 2 * FAN_IN])
        assert await scene.unit(0, SHARDS[:FAN_IN]) is None  # and are not begun

    play(scenario)


def test_a_report_that_is_not_finite_leaves_its_group_in_single_reports() -> None:
    async def scenario(scene: Scene) -> None:
        results = await scene.unit(0, SHARDS[:FAN_IN])
        assert [result.shard for result in results] == list(range(FAN_IN))
        assert [result.shard for result in results if not result.value.finite] == [5]

    play(scenario, recipe=FakeRecipe("nonfinite", shard=5))


def test_values_that_are_no_reports_are_passed_on() -> None:
    async def scenario(scene: Scene) -> None:
        wire = encode_snapshot(Snapshot(3, PARAMS), 2, Work("about"))
        request = UnitRequest((1, 0), "about", tuple(map(pack_shard, SHARDS[:FAN_IN])))
        results = await scene.actor.unit(request, [wire])
        assert results is not None
        assert [(result.shard, "pid" in result.value) for result in results] == [(i, True) for i in range(FAN_IN)]

    play(scenario)


def test_a_released_worker_finishes_its_shard_and_gets_no_other() -> None:
    async def scenario(scene: Scene) -> None:
        held = scene.workers[0]
        held.held = True
        unit = asyncio.ensure_future(scene.unit(0, SHARDS[:FAN_IN]))
        await scene.asked()
        await scene.actor.release(0)
        assert len(held.waiting) == 2 and len(held.cancelled) == 1  # the shard queued behind the first is skipped
        for answer in held.waiting:
            answer()
        assert_group(await unit, SHARDS[:FAN_IN])
        [event] = await scene.actor.events()
        assert (event.worker, event.process, event.failure) == (0, 100, None)
        assert_group(await scene.unit(1, SHARDS[FAN_IN : 2 * FAN_IN]), SHARDS[FAN_IN : 2 * FAN_IN])
        assert len(held.asked) == 2

    play(scenario, speculate=False)


def test_a_worker_that_is_released_before_it_is_handed_over_is_given_back() -> None:
    """Ray may start an actor's methods out of order; and a release may come twice."""

    async def scenario(scene: Scene) -> None:
        location = Location("a", "127.0.0.1", 100)
        await scene.actor.release(0)
        await scene.actor.release(0)
        [event] = await scene.actor.events()
        assert (event.worker, event.process, event.failure) == (0, 100, None)
        await scene.actor.adopt(0, scene.workers[0], location)
        assert [event.worker for event in await scene.actor.events()] == [0]
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        assert not scene.workers[0].asked
        await scene.actor.adopt(0, scene.workers[0], location)
        assert_group(await scene.unit(1, SHARDS[FAN_IN : 2 * FAN_IN]), SHARDS[FAN_IN : 2 * FAN_IN])
        assert scene.workers[0].asked

    play(scenario)


def test_a_worker_that_answers_no_heartbeat_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "CHECK_INTERVAL_S", 0.01)

    async def scenario(scene: Scene) -> None:
        scene.workers[2].mute = scene.workers[2].held = True
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        [event] = await asyncio.wait_for(scene.actor.events(), 10.0)
        assert event.failure is not None and (event.worker, event.failure.kind) == (2, "silent")

    play(scenario, heartbeat_timeout_s=0.5)


def test_a_worker_at_a_shard_for_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "CHECK_INTERVAL_S", 0.01)

    async def scenario(scene: Scene) -> None:
        scene.workers[2].held = True
        assert_group(await scene.unit(0, SHARDS[:FAN_IN]), SHARDS[:FAN_IN])
        [event] = await asyncio.wait_for(scene.actor.events(), 10.0)
        assert event.failure is not None and (event.worker, event.failure.kind) == (2, "timed_out")

    play(scenario, shard_timeout_s=0.5, speculate=False)
