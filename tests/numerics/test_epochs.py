"""Several steps on the same trajectories: the clipped loss, its meta-gradient, and the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, NavigationTasks, OuterConfig, PolicyConfig, RunConfig, TrainConfig
from distmeta.config.run import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params, Snapshot, Update, Work
from distmeta.engine.engine import Engine
from distmeta.engine.ops import EagerOps
from distmeta.methods import maml, maml_rl
from distmeta.methods.policy_gradient import PolicyGradient
from distmeta.program.program import MetaProgram
from distmeta.program.recorded import AGAIN, AT, RECORD
from distmeta.runtime.local import LocalExecutor
from distmeta.tasks.recording import Recording
from distmeta.training.procedure import Procedure
from distmeta.training.steps import build_procedure

from ..tabular import episodes, logits, trajectories
from .problems import EXACT
from .test_policy_gradient import central_differences, flat, learner_of, settings, start, term

CLIPPED = settings(dependence=0.0, clip=0.2)
EPOCHS = 3


def moved() -> Params:
    rng = torch.Generator().manual_seed(7)
    return {name: tensor + 0.5 * torch.randn(tensor.shape, generator=rng) for name, tensor in start().items()}


def test_the_clipped_loss_and_its_gradient_are_those_of_ppo() -> None:
    batch, _ = trajectories(start())
    leaf = flat(moved()).requires_grad_()
    names, sizes = list(start()), [tensor.numel() for tensor in start().values()]

    def forward(inputs: Tensor) -> Tensor:
        parts = leaf.split(sizes)
        params = {name: part.reshape(start()[name].shape) for name, part in zip(names, parts, strict=True)}
        return logits(params)[inputs.argmax(-1)]

    loss, _ = PolicyGradient(CLIPPED)(forward, batch)
    (gradient,) = torch.autograd.grad(loss, leaf)
    log_probs = forward(batch.inputs.flatten(0, 1)).log_softmax(-1).gather(-1, batch["actions"].reshape(-1, 1))
    ratio = (log_probs.reshape(batch["rewards"].shape) - batch["log_probs"]).exp()
    later = batch["rewards"].flip(1).cumsum(1).flip(1)
    outside = ((ratio > 1.2) & (later > 0)) | ((ratio < 0.8) & (later < 0))
    assert bool(outside.any()) and not bool(outside.all())
    bound = torch.where(later > 0, 1.2, 0.8)
    expected = torch.where(outside, bound * later, ratio * later)
    torch.testing.assert_close(loss, -(batch["rewards"] + expected - later).mean())
    torch.testing.assert_close(gradient, torch.autograd.grad(-expected.mean(), leaf)[0])


@pytest.mark.parametrize("inner", [settings(), settings(dependence=0.0)], ids=["dice", "low variance"])
def test_the_meta_gradient_on_kept_trajectories_is_that_of_central_differences(inner: Any) -> None:
    learner, terms, tasks = learner_of(inner, steps=2), term(CLIPPED), episodes(3, 4, 5)
    assert tasks.supply is not None
    tasks = replace(tasks, supply=Recording(tasks.supply))
    engine = Engine(learner, EXACT, terms, EngineConfig(strategy="vmap"))
    engine.update(start(), tasks)
    here = {name: tensor + 0.05 for name, tensor in start().items()}
    ops = EagerOps(learner, "vmap", terms)

    def loss(params: Params) -> Tensor:
        return ops.score(params, ops.adapt(params, tasks), tasks).metrics["loss"].sum()

    actual = flat(engine.update(here, tasks)[0].grad)
    torch.testing.assert_close(actual, central_differences(loss, at=here), rtol=1e-6, atol=1e-8)


def config(epochs: int = EPOCHS, **fields: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "epochs",
            "tasks": NavigationTasks(shots=5, queries=5, horizon=10),
            "model": PolicyConfig(hidden=(8,), init_std=0.5),
            "algorithm": maml_rl(clip=0.2),
            "outer": OuterConfig(optimizer="Adam", lr=0.05, epochs=epochs),
            "train": TrainConfig(steps=7, tasks_per_step=6),
            "runtime": RuntimeConfig(executor="local", shard_size=4),
            "engine": EngineConfig(strategy="vmap", dtype="float64"),
            **fields,
        }
    )


@pytest.fixture
def program() -> MetaProgram:
    return MetaProgram(config())


def procedure_of(run: RunConfig, program: MetaProgram) -> Procedure:
    params = program.algorithm.learner.init(0)
    return build_procedure(run, params, program.source, LocalExecutor(run.runtime, program))


def test_epochs_are_steps_of_adam_on_the_same_trajectories(program: MetaProgram) -> None:
    run = config()
    procedure = procedure_of(run, program)
    params = {name: tensor.clone().requires_grad_() for name, tensor in program.algorithm.learner.init(0).items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.05)
    by_hand = MetaProgram(run)
    for step in range(2 * EPOCHS):
        drawn, epoch = divmod(step, EPOCHS)
        present = {name: tensor.detach().clone() for name, tensor in params.items()}
        if epoch == 0:
            collected = present
        work, extra = (AGAIN, {AT + name: tensor for name, tensor in present.items()}) if epoch else (RECORD, {})
        snapshot = Snapshot(step - epoch, collected, extra=extra)
        updates: list[Update] = [
            by_hand.run(Work(work, run.engine), snapshot, shard).update
            for shard in by_hand.source.shards("train", drawn, 6, 4)
        ]
        for name, tensor in params.items():
            tensor.grad = sum((update.grad[name] for update in updates), torch.zeros_like(tensor)) / 6
        optimizer.step()
        record = procedure.step(Work("update", run.engine)).record
        assert record.weight == 6
        for name, tensor in procedure.server.pull().params.items():
            torch.testing.assert_close(tensor, params[name].detach(), rtol=1e-12, atol=1e-14)


def test_at_the_parameters_that_collected_both_requests_have_one_gradient(program: MetaProgram) -> None:
    params, engine = program.algorithm.learner.init(0), config().engine
    shard = program.source.shards("train", 0, 6, 4)[0]
    first = program.run(Work(RECORD, engine), Snapshot(0, params), shard).update
    extra = {AT + name: tensor for name, tensor in params.items()}
    again = program.run(Work(AGAIN, engine), Snapshot(0, params, extra=extra), shard).update
    for name, tensor in first.grad.items():
        torch.testing.assert_close(again.grad[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_state_between_two_collections_needs_what_collected(program: MetaProgram) -> None:
    run = config()
    procedure = procedure_of(run, program)
    for _ in range(2):
        procedure.step(Work("update", run.engine))
    state = procedure.state_dict()
    bare = {name: value for name, value in state.items() if not name.startswith("collected/")}
    assert len(bare) < len(state)
    with pytest.raises(UserError, match=r"outer\.epochs: step 2 is between two collections"):
        procedure.load_state_dict(bare)
    procedure_of(config(epochs=2), program).load_state_dict(bare)  # whose third step collects


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"staleness": 1}, "outer.epochs 3 does not go with outer.staleness 1; allowed: null"),
        ({"compression": "bf16"}, "outer.epochs 3 does not go with outer.compression 'bf16'; allowed: none"),
        ({"nonfinite": "drop"}, "outer.epochs 3 does not go with outer.nonfinite 'drop'; allowed: abort"),
        (
            {"optimizer": "SGD", "lr": 1.0, "trust_region": {}},
            "outer.trust_region does not go with outer.epochs 3; allowed: 1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OuterConfig.model_validate({"epochs": 3, **fields})


def test_other_tasks_have_no_trajectories() -> None:
    run = RunConfig.model_validate(
        {
            "name": "waves",
            "tasks": {"source": "sinusoid"},
            "model": {"kind": "mlp"},
            "algorithm": maml(),
            "outer": {"epochs": 2},
        }
    )
    program = MetaProgram(run)
    with pytest.raises(UserError, match=r"outer\.epochs: it keeps trajectories, of which tasks\.source 'sinusoid'"):
        procedure_of(run, program)


def test_a_clip_is_of_single_steps() -> None:
    with pytest.raises(ValueError, match=r"clip 0\.2 is of ratios of single steps; allowed: dependence 0"):
        settings(clip=0.2)
