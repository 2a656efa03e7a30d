"""The driver's side of `outer.zero`, with a worker that forgets all it has at any moment: no ranks, no DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from distmeta.config import OuterConfig, RunConfig, RuntimeConfig, TrainConfig
from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.core.seeding import Uint64
from distmeta.core.types import Batch, Params, Snapshot, Work
from distmeta.methods import reptile
from distmeta.program.zero import ADVANCE, COLLECT, LOAD, Behind, Nonfinite
from distmeta.server import ParameterServer, StepRecord
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Procedure
from distmeta.training.steps import build_procedure

from ...fakes_training import Call, FakeExecutor

PARAMS: Params = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
ENGINE = "the engine of the run"
STEPS = 4


class NoTasks(TaskSource):
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        raise AssertionError("the worker makes the tasks")


class Group:
    """A worker that has the meta-parameters, and loses them before some of its calls.

    Args:
        lost_before: Numbers of these calls.
    """

    def __init__(self, *lost_before: int) -> None:
        self.lost_before = lost_before
        self.names: list[str] = []
        self.engines: list[Any] = []
        self._has: Snapshot | None = None

    def compute(self, call: Call) -> Any:
        self.names.append(call.work.name)
        self.engines.append(call.work.engine)
        if len(self.names) in self.lost_before:
            self._has = None
        version = call.snapshot.version
        if call.work.name == LOAD:
            self._has = call.snapshot
            return None
        if self._has is None or self._has.version != version:
            return Behind()
        if call.work.name == COLLECT:
            return self._has
        # A step that notices whether another one was left out or made twice.
        params = {name: tensor * 2 + version for name, tensor in self._has.params.items()}
        extra = {f"{name}/momentum_buffer": tensor.clone() for name, tensor in params.items()}
        self._has = Snapshot(version + 1, params, extra=extra)
        return StepRecord(version + 1, 2.0, {"loss": float(version)}, {})


def make(group: Group, **outer: Any) -> Procedure:
    config = RunConfig(
        name="zero",
        algorithm=reptile(),
        outer=OuterConfig(optimizer="SGD", options={"momentum": 0.9}, zero=2, **outer),
        train=TrainConfig(steps=STEPS, tasks_per_step=6),
        runtime=RuntimeConfig(workers=1, ranks=2),
    )
    return build_procedure(config, PARAMS, NoTasks(), FakeExecutor(group.compute))


def train(procedure: Procedure, first: int = 0) -> None:
    for step in range(first, STEPS):
        made = procedure.step(Work("update", ENGINE))
        assert (made.record.version, made.record.metrics, made.tasks) == (step + 1, {"loss": float(step)}, 6)
        assert [result.value for result in made.results] == [None]
        if step == 1:
            procedure.server.pull()


def expected() -> Params:
    params = PARAMS
    for step in range(STEPS):
        params = {name: tensor * 2 + step for name, tensor in params.items()}
    return params


def test_weights_travel_only_when_they_are_read() -> None:
    group = Group()
    procedure = make(group)
    before = procedure.state_dict()  # of the first version, which the driver has
    assert all(before[f"params/{name}"] is tensor for name, tensor in PARAMS.items())
    train(procedure)
    assert group.names == [LOAD, ADVANCE, ADVANCE, COLLECT, ADVANCE, ADVANCE]
    assert {engine for name, engine in zip(group.names, group.engines, strict=True) if name == ADVANCE} == {ENGINE}
    pulled = procedure.server.pull()
    assert pulled.version == procedure.server.version == STEPS
    for name, tensor in expected().items():
        assert torch.equal(pulled.params[name], tensor)
        assert torch.equal(procedure.server.averaged()[name], tensor)
    procedure.state_dict()
    assert group.names.count(COLLECT) == 2
    assert procedure.server.buffers() == {}


@pytest.mark.parametrize("lost_before", [*((call,) for call in range(1, 8)), (4, 6), (5, 6, 7), (6, 8, 9, 10)])
def test_a_worker_that_was_lost_makes_the_steps_again(lost_before: tuple[int, ...]) -> None:
    group = Group(*lost_before)
    procedure = make(group)
    train(procedure)
    state = procedure.state_dict()
    assert state["num_steps"] == STEPS
    for name, tensor in expected().items():
        assert torch.equal(torch.as_tensor(state[f"params/{name}"]), tensor)
        assert torch.equal(torch.as_tensor(state[f"optimizer/{name}/momentum_buffer"]), tensor)


def test_a_worker_that_is_lost_at_every_attempt_ends_the_run() -> None:
    group = Group(*range(100))
    lost = group.compute
    group.compute = lambda call: None if call.work.name == LOAD else lost(call)  # type: ignore[method-assign]
    with pytest.raises(WorkerError, match=r"^step 0: the worker of outer.zero has been lost again and again"):
        train(make(group))
    assert group.names.count(ADVANCE) == 1 + RuntimeConfig().tolerance.max_shard_retries


def test_a_run_is_continued_from_its_state() -> None:
    first = make(Group())
    for _ in range(3):
        first.step(Work("update", ENGINE))
    group = Group()
    second = make(group)
    second.load_state_dict(first.state_dict())
    assert second.server.version == 3
    train(second, 3)
    assert group.names == [LOAD, ADVANCE]
    assert torch.equal(second.server.averaged()["a"], expected()["a"])


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    group = Group()
    compute = group.compute
    group.compute = lambda call: Nonfinite() if call.work.name == ADVANCE else compute(call)  # type: ignore[method-assign]
    procedure = make(group)
    with pytest.raises(DistmetaError, match=r"^step 0: an entry of the gradient is infinite or not a number"):
        procedure.step(Work("update", ENGINE))


def test_what_ranks_cannot_hold_is_refused() -> None:
    config = RunConfig(
        name="zero", algorithm=reptile(), outer=OuterConfig(zero=1), runtime=RuntimeConfig(workers=1, ranks=2)
    )
    executor = FakeExecutor()
    with pytest.raises(UserError, match=r"^outer.zero: the network keeps running statistics \('mean'\)"):
        build_procedure(config, PARAMS, NoTasks(), executor, {"mean": torch.zeros(1)})
    with pytest.raises(UserError, match=r"^outer.zero: 'a' is torch.bfloat16; allowed: null, or float32"):
        build_procedure(config, {"a": torch.zeros(2, dtype=torch.bfloat16)}, NoTasks(), executor)
    # A server whose second parameter had no gradient in the first step.
    server = ParameterServer(PARAMS, OuterConfig(), 3)
    state = server.state_dict() | {"num_steps": 2}
    for name, steps in (("a", 2.0), ("b", 1.0)):
        state |= {f"optimizer/{name}/{key}": torch.zeros_like(PARAMS[name]) for key in ("exp_avg", "exp_avg_sq")}
        state[f"optimizer/{name}/step"] = torch.tensor(steps)
    procedure = build_procedure(config, PARAMS, NoTasks(), executor)
    with pytest.raises(UserError, match="the optimizer has not made every step with every meta-parameter"):
        procedure.load_state_dict(state)
    with pytest.raises(UserError, match=r"'a' is torch.float32 "):
        procedure.load_state_dict(state | {"params/a": torch.ones(2)})
    assert procedure.server.version == 0
