"""How outer steps are made, with a fake executor: no network is ever computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from distmeta.config import OuterConfig, RunConfig, RuntimeConfig, TrainConfig
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.seeding import Uint64
from distmeta.core.tensors import digest
from distmeta.core.types import Batch, Params, Report, TaskSpec, Work
from distmeta.methods import fomaml
from distmeta.server import AsynchronousServer, ParameterServer
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Procedure
from distmeta.training.steps import Asynchronous, Synchronous, build_procedure

from ...fakes_training import Call, FakeExecutor, constant_update

UPDATE = Work("update")
STEPS, TASKS, SHARD_SIZE = 4, 10, 4  # shards of 4, 4 and 2 tasks


class SpecsOnly(TaskSource):
    """Task specs without episodes."""

    def __init__(self) -> None:
        self.seed = 3

    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        raise AssertionError("not used")


SOURCE = SpecsOnly()


def make_procedure(executor: FakeExecutor, **outer: Any) -> Procedure:
    config = RunConfig(
        name="steps",
        algorithm=fomaml(),
        outer=OuterConfig(**{"optimizer": "SGD", "lr": 1.0, **outer}),
        train=TrainConfig(steps=STEPS, tasks_per_step=TASKS),
        runtime=RuntimeConfig(shard_size=SHARD_SIZE),
    )
    params: Params = {"a": torch.zeros(3), "b": torch.zeros(2, 2)}
    return build_procedure(config, params, SOURCE, executor)


def specs_of(step: int) -> list[tuple[TaskSpec, ...]]:
    return [shard.specs for shard in SOURCE.shards("train", step, TASKS, SHARD_SIZE)]


def nonfinite_on(*workers: int, shard: int = 1) -> Any:
    """Computes updates of ones; those of `shard` are infinite on some workers."""

    def compute(call: Call) -> Report:
        value = math.inf if call.shard.index == shard and call.worker in workers else 1.0
        return constant_update(call, value)

    return compute


def test_the_configuration_selects_the_procedure_and_its_server() -> None:
    synchronous, asynchronous = make_procedure(FakeExecutor()), make_procedure(FakeExecutor(), staleness=1)
    assert isinstance(synchronous, Synchronous) and isinstance(synchronous.server, ParameterServer)
    assert isinstance(asynchronous, Asynchronous) and isinstance(asynchronous.server, AsynchronousServer)
    with pytest.raises(UserError, match=r"outer\.optimizer"):
        make_procedure(FakeExecutor(), optimizer="Addam")


# Synchronous steps.


def test_a_step_computes_all_its_shards_from_one_snapshot() -> None:
    executor = FakeExecutor(workers=2)
    procedure = make_procedure(executor)
    for version in range(STEPS):
        executor.calls.clear()
        step = procedure.step(UPDATE)
        assert [call.shard.specs for call in executor.calls] == specs_of(version)
        assert {(call.work, call.snapshot.version) for call in executor.calls} == {(UPDATE, version)}
        assert (step.record.version, step.record.weight, step.tasks) == (version + 1, TASKS, TASKS)
        assert step.record.metrics == {"loss": 2.0}
        assert [(result.shard, result.worker, result.value) for result in step.results] == [
            (0, 0, None),
            (1, 1, None),
            (2, 0, None),
        ]
    assert executor.upcoming == [[0, 1, 2]] * (STEPS - 1) + [[]], "no shards follow the last step"
    assert torch.equal(procedure.server.pull().params["a"], torch.full((3,), -float(STEPS)))


def test_the_order_of_results_does_not_change_a_bit() -> None:
    def uneven(call: Call) -> Report:
        return constant_update(call, 10.0 ** (call.shard.index - 1) / 3)

    procedures = [make_procedure(FakeExecutor(uneven, 3, reverse=reverse)) for reverse in (False, True)]
    for procedure in procedures:
        procedure.step(UPDATE)
    assert digest(procedures[0].server.pull().params) == digest(procedures[1].server.pull().params)


def test_a_nonfinite_update_is_recomputed_on_another_worker() -> None:
    executor = FakeExecutor(nonfinite_on(1), workers=2)
    step = make_procedure(executor).step(UPDATE)
    assert [(call.shard.index, call.worker) for call in executor.calls] == [(0, 0), (1, 1), (2, 0), (1, 0)]
    assert sorted((result.shard, result.worker) for result in step.results) == [(0, 0), (1, 0), (2, 0)]
    assert (step.record.weight, step.tasks) == (TASKS, TASKS)
    assert executor.counts == {"nonfinite": 1, "retries": 1}
    [incident] = executor.incidents()
    assert (incident.kind, incident.worker, incident.shard, incident.outcome) == ("nonfinite", 1, 1, "retry")
    assert incident.detail == "step 0: an entry is infinite or not a number"


@pytest.mark.parametrize(("workers", "attempts"), [(1, 1), (2, 2)])
def test_a_shard_that_stays_nonfinite_ends_the_run(workers: int, attempts: int) -> None:
    executor = FakeExecutor(nonfinite_on(0, 1), workers=workers)
    procedure = make_procedure(executor)
    with pytest.raises(DistmetaError, match=r"^step 0: the update of shard 1 is nonfinite .*outer\.nonfinite=drop"):
        procedure.step(UPDATE)
    assert [incident.outcome for incident in executor.incidents()] == ["retry", "abort"][-attempts:]
    assert procedure.server.version == 0


@pytest.mark.parametrize(("workers", "outcomes"), [(1, ["dropped"]), (2, ["retry", "dropped"])])
def test_a_shard_that_stays_nonfinite_can_be_dropped(workers: int, outcomes: list[str]) -> None:
    executor = FakeExecutor(nonfinite_on(0, 1), workers=workers)
    procedure = make_procedure(executor, nonfinite="drop")
    step = procedure.step(UPDATE)
    assert [incident.outcome for incident in executor.incidents()] == outcomes
    assert executor.counts["dropped"] == 1
    assert step.record.weight == TASKS - SHARD_SIZE
    assert step.record.outer["dropped"] == 1.0
    assert sorted(result.shard for result in step.results) == [0, 2]
    assert torch.equal(procedure.server.pull().params["a"], torch.full((3,), -1.0)), "still a mean over the others"
    assert procedure.step(UPDATE).record.version == 2


@pytest.mark.parametrize(("changes", "verdict"), [({"version": 5}, "stale"), ({"shard": 0}, "duplicate")])
def test_a_report_of_another_version_or_shard_is_an_error(changes: dict[str, int], verdict: str) -> None:
    def wrong(call: Call) -> Report:
        report = constant_update(call)
        return replace(report, **changes) if call.shard.index == 1 else report

    with pytest.raises(DistmetaError, match=rf"^step 0: the update of shard 1 is {verdict}$"):
        make_procedure(FakeExecutor(wrong)).step(UPDATE)


# Asynchronous steps.


def numbers(executor: FakeExecutor) -> list[tuple[int, int]]:
    """Number and snapshot version of every computed shard."""
    return [(call.shard.index, call.snapshot.version) for call in executor.calls]


def test_workers_get_numbered_shards_and_the_newest_snapshot() -> None:
    executor = FakeExecutor(workers=2)
    procedure = make_procedure(executor, staleness=3)
    steps = [procedure.step(UPDATE) for _ in range(3)]
    # Shard 3 is assigned before the first step, shard 4 after it.
    assert numbers(executor) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 2), (8, 2)]
    expected = [*specs_of(0), *specs_of(1), *specs_of(2)]
    assert [call.shard.specs for call in executor.calls] == expected, "the tasks of synchronous steps, in their order"
    assert [step.record.version for step in steps] == [1, 2, 3]
    assert [step.tasks for step in steps] == [TASKS] * 3
    assert [step.record.outer["staleness_max"] for step in steps] == [0.0, 1.0, 1.0]
    assert all(result.value is None for step in steps for result in step.results)
    by_version = {call.snapshot.version: call.snapshot for call in executor.calls}
    assert all(call.snapshot is by_version[call.snapshot.version] for call in executor.calls), "one pull for a version"


def test_after_a_pause_interrupted_shards_are_computed_again_once() -> None:
    executor = FakeExecutor(workers=3)
    procedure = make_procedure(executor, staleness=3)
    procedure.step(UPDATE)
    assert numbers(executor) == [(0, 0), (1, 0), (2, 0)]
    procedure.pause()  # shards 3 and 4 are in flight
    procedure.pause()
    procedure.step(UPDATE)
    assert numbers(executor)[3:] == [(3, 1), (4, 1), (5, 1)]
    procedure.pause()
    procedure.step(UPDATE)
    assert numbers(executor)[6:] == [(6, 2), (7, 2), (8, 2)]


def test_a_resumed_run_starts_with_the_tasks_of_its_step() -> None:
    first = make_procedure(FakeExecutor(), staleness=0)
    for _ in range(2):
        first.step(UPDATE)
    executor = FakeExecutor()
    resumed = make_procedure(executor, staleness=0)
    resumed.server.load_state_dict(first.server.state_dict())
    resumed.step(UPDATE)
    assert [call.shard.specs for call in executor.calls] == specs_of(2)
    assert numbers(executor) == [(0, 2), (1, 2), (2, 2)]


def test_stale_updates_are_counted_and_left_out() -> None:
    executor = FakeExecutor(workers=2)
    procedure = make_procedure(executor, staleness=0)
    steps = [procedure.step(UPDATE) for _ in range(2)]
    # When the first step is made, shard 3 is in flight with version 0.
    assert numbers(executor) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    assert executor.counts == {"stale": 1}
    assert [result.shard for result in steps[1].results] == [4, 5, 6]
    assert [step.tasks for step in steps] == [10, 4 + 2 + 4]


def test_an_asynchronous_nonfinite_update_ends_the_run_or_is_dropped() -> None:
    executor = FakeExecutor(nonfinite_on(1), workers=2)
    with pytest.raises(DistmetaError, match=r"^step 0: the update of shard 1 is nonfinite"):
        make_procedure(executor, staleness=1).step(UPDATE)
    assert [incident.outcome for incident in executor.incidents()] == ["abort"]

    executor = FakeExecutor(nonfinite_on(1), workers=2)
    step = make_procedure(executor, staleness=1, nonfinite="drop").step(UPDATE)
    assert [result.shard for result in step.results] == [0, 2, 3]
    assert executor.counts == {"nonfinite": 1, "dropped": 1}
    assert [incident.outcome for incident in executor.incidents()] == ["dropped"]


def test_an_asynchronous_duplicate_is_an_error() -> None:
    def twice(call: Call) -> Report:
        return replace(constant_update(call), shard=0)

    with pytest.raises(DistmetaError, match=r"^step 0: the update of shard 1 is duplicate$"):
        make_procedure(FakeExecutor(twice), staleness=1).step(UPDATE)


def test_an_estimator_with_a_state_is_refused_in_asynchronous_mode() -> None:
    def compute(call: Call) -> Report:
        return replace(constant_update(call), carries={call.shard.index: {"age": torch.zeros(4)}})

    procedure = make_procedure(FakeExecutor(compute), staleness=1)
    with pytest.raises(UserError, match=r"^outer\.staleness: the estimator keeps a state"):
        procedure.step(UPDATE)


def test_the_state_of_a_shard_goes_on_with_the_next_shard_of_its_index() -> None:
    def compute(call: Call) -> Report:
        before = call.shard.carry.get("age", torch.zeros(len(call.shard.specs)))
        return replace(constant_update(call), carries={call.shard.index: {"age": before + 1}})

    first = make_procedure(FakeExecutor(compute))
    for _ in range(2):
        first.step(UPDATE)
    state = first.state_dict()
    assert sorted(name for name in state if name.startswith("carry/")) == [f"carry/{i}/age" for i in range(3)]
    second = make_procedure(FakeExecutor(compute))
    second.load_state_dict(state)
    for procedure in (first, second):
        procedure.step(UPDATE)
    assert torch.equal(torch.as_tensor(second.state_dict()["carry/1/age"]), torch.full((4,), 3.0))
    assert torch.equal(torch.as_tensor(first.state_dict()["carry/1/age"]), torch.full((4,), 3.0))
    with pytest.raises(UserError, match="'carry/x/age' is no carry"):
        second.load_state_dict({**state, "carry/x/age": torch.zeros(1)})
