"""The parts of a method by hand: the same numbers as in a run, and derivatives through adaptation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import distmeta
from distmeta.config import (
    BackpropConfig,
    EngineConfig,
    GlyphTasks,
    MlpConfig,
    ResNet12Config,
    RunConfig,
    SinusoidTasks,
)
from distmeta.core.errors import UserError
from distmeta.core.types import Episode
from distmeta.methods import evolved_optimizer, maml
from distmeta.program.own_loop import OwnLoop

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def waves() -> OwnLoop:
    return distmeta.build(
        RunConfig(
            name="loop",
            tasks=SinusoidTasks(shots=5, queries=6),
            model=MlpConfig(hidden=(8,)),
            algorithm=maml(lr=0.05, steps=2, eval_steps=4),
            engine=EngineConfig(dtype="float64"),
        )
    )


def test_the_update_is_the_mean_of_derivatives_through_adaptation(waves: OwnLoop) -> None:
    meta, episodes = waves.init(3), waves.tasks("train", 0, 4)
    mean = waves.update(meta, episodes)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    losses = []
    for index in range(4):
        one: Episode = episodes.map(lambda tensor, index=index: tensor[index])  # type: ignore[misc]
        task = waves.adapt(leaves, one.support.inputs, one.support.targets, steps=2, differentiable=True)
        assert one.query.targets is not None
        losses.append(F.mse_loss(waves.predict(task, one.query.inputs), one.query.targets))
    loss = torch.stack(losses).mean()
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert mean.metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    for name, grad in zip(leaves, grads, strict=True):
        torch.testing.assert_close(mean.grad[name], grad, rtol=1e-11, atol=1e-13)


def test_the_number_of_steps_is_free_and_by_default_that_of_evaluation(waves: OwnLoop) -> None:
    meta, x = waves.init(), torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    outputs = {steps: waves.predict(waves.adapt(meta, x, x, steps=steps), x) for steps in (0, 4, None)}
    assert torch.equal(outputs[4], outputs[None])
    assert not torch.equal(outputs[0], outputs[4])
    assert not outputs[4].requires_grad


def test_running_statistics_go_in_and_come_out() -> None:
    model = ResNet12Config(widths=(4, 4, 4, 4), dropout=0.2)
    tasks = GlyphTasks(way=2, size=16, queries=2)
    algorithm = distmeta.build(RunConfig(name="net", tasks=tasks, model=model, algorithm=maml(lr=0.1)))
    meta = algorithm.init()
    mean = algorithm.update(meta, algorithm.tasks("train", 0, 2))
    assert mean.buffers.keys() == algorithm.algorithm.learner.backbone.buffers().keys()
    assert mean.grad.keys() | mean.buffers.keys() == meta.keys()
    assert any(bool(tensor.any()) for name, tensor in mean.buffers.items() if name.endswith("mean"))


@pytest.mark.thorough
def test_the_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own.md").read_text(), re.DOTALL)
    for number, block in enumerate(blocks):
        (tmp_path / f"block{number}.py").write_text(block)
        values: dict[str, object] = {"__name__": f"block{number}"}
        exec(compile(block, str(tmp_path / f"block{number}.py"), "exec"), values)
        if callable(make := values.get("config")):
            distmeta.build(make())
    assert len(blocks) == 4


def test_a_method_that_changes_along_training_gets_the_number_of_the_step(waves: OwnLoop) -> None:
    switching = maml(lr=0.05, steps=2).model_copy(update={"estimator": BackpropConfig(first_order_until=3)})
    loop = distmeta.build(waves.config.model_copy(update={"algorithm": switching}))
    meta, tasks = waves.init(), waves.tasks("train", 0, 2)
    early, late = (loop.update(meta, tasks, step).grad for step in (2, 3))
    exact = waves.update(meta, tasks).grad
    assert all(torch.equal(late[name], exact[name]) for name in exact)
    assert not all(torch.equal(early[name], exact[name]) for name in exact)


def test_an_estimator_that_keeps_a_state_is_refused(waves: OwnLoop) -> None:
    loop = distmeta.build(waves.config.model_copy(update={"algorithm": evolved_optimizer(steps=4, window=2)}))
    with pytest.raises(UserError, match=r"algorithm\.estimator: the estimator keeps a state from step to step"):
        loop.update(loop.init(), loop.tasks("train", 0, 2))
    whole = distmeta.build(waves.config.model_copy(update={"algorithm": evolved_optimizer(steps=4, window=None)}))
    assert whole.update(whole.init(), whole.tasks("train", 0, 2)).grad.keys() == whole.init().keys()
