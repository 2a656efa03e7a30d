"""Strategies of transfer learning against loops in plain torch, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.config import Phase, RidgeConfig
from distmeta.core.types import QUERY, SOURCE, Batch, Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.learners.ridge import RidgeLearner
from distmeta.methods.objectives import cross_entropy, mse
from distmeta.methods.terms import OuterTerm

from ..adapting import adapt, walk
from . import networks
from .problems import (
    EXACT,
    LOOP,
    VMAP,
    WAY,
    classification,
    gradient,
    mean_gradient,
    mlp,
    perturbed,
    regression,
    relative_error,
    single_tasks,
    update,
    worst_relative_error,
)

TOLERANCE = 1e-11
CLASSES = 5
BLOCKS = ("block1", "block2", "head")
Groups = list[dict[str, Any]]


def task_and_meta(shots: int = 4) -> tuple[Episode, Params]:
    """A task of `3 * shots` support examples, and meta-parameters."""
    return single_tasks(classification(6, shots=shots, tasks=1))[0], perturbed(mlp().init(0))


def rows_of_steps(learner: Learner, task: Episode) -> list[list[int]]:
    """The rows of each inner step."""
    available = len(task.support.inputs)
    stages = learner.stages({"support": available})
    return [list(range(available) if stage.rows is None else stage.rows) for stage in stages]


def loop(
    task: Episode,
    meta: Params,
    rows: list[list[int]],
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer],
    penalty: Callable[[nn.Module], Tensor] | None = None,
    before: Callable[[int, nn.Module, torch.optim.Optimizer], None] | None = None,
) -> Params:
    """Values after steps of a torch optimizer; `before` is called with each step's number after its gradient."""
    net = networks.with_values(networks.Mlp((6, 8, 7, WAY)), meta)
    optimizer = optimizer_of(net)
    for k, chosen in enumerate(rows):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(task.support.inputs[chosen]), task.support.targets[chosen])
        (loss if penalty is None else loss + penalty(net)).backward()
        if before is not None:
            before(k, net, optimizer)
        optimizer.step()
    return networks.values(net)


def test_mini_batches_use_all_examples_equally_often_in_orders_of_their_own() -> None:
    task, _ = task_and_meta()
    phase = Phase(steps=24, batch=5, shuffle=True)
    rows = rows_of_steps(gradient(mlp(), phase, phase), task)
    first, second = rows[:24], rows[24:]
    epochs = np.array(first).reshape(10, 12)  # 24 steps of 5 are ten epochs of 12
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 10
    assert first != second
    assert rows_of_steps(gradient(mlp(), phase, phase), task) == rows
    short = gradient(mlp(), Phase(steps=7, batch=5, shuffle=True))
    assert rows_of_steps(short, task) == first[:7]


OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[nn.Module], torch.optim.Optimizer]]] = {
    "momentum": ({"lr": 0.1, "momentum": 0.9}, lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)),
    "decay": (
        {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.03},
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5, weight_decay=0.03),
    ),
    "adam": (
        {"lr": 0.01, "optimizer": "adam", "weight_decay": 0.03},
        lambda net: torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=0.03),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fine_tuning_is_that_of_torch_optimizers(name: str) -> None:
    settings, optimizer_of = OPTIMIZERS[name]
    task, meta = task_and_meta()
    learner = gradient(mlp(), Phase(steps=40, batch=5, shuffle=True, **settings))
    expected = loop(task, meta, rows_of_steps(learner, task), optimizer_of)
    assert relative_error(adapt(learner, meta, task).moved, expected) < (1e-7 if name == "adam" else TOLERANCE)


def test_rates_fall_from_block_to_block() -> None:
    task, meta = task_and_meta()
    learner = gradient(mlp(), Phase(steps=9, lr=0.2, block_decay=0.5, rates={"block1": 0.07}, batch=4))
    rates = {"head": 0.2, "block2": 0.1, "block1": 0.07}  # `rates` take precedence: else 0.05

    def optimizer(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": net.get_submodule(b).parameters(), "lr": rates[b]} for b in BLOCKS])

    expected = loop(task, meta, rows_of_steps(learner, task), optimizer)
    assert relative_error(adapt(learner, meta, task).moved, expected) < TOLERANCE


def test_l2sp_pulls_to_the_start() -> None:
    task, meta = task_and_meta()
    strength = 0.7
    learner = gradient(mlp(), Phase(steps=30, lr=0.1, momentum=0.9, batch=5, shuffle=True, l2sp=strength))

    def penalty(net: nn.Module) -> Tensor:
        squares = [(tensor - meta[name]).square().sum() for name, tensor in net.named_parameters()]
        return strength / 2 * torch.stack(squares).sum()

    expected = loop(
        task,
        meta,
        rows_of_steps(learner, task),
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        penalty,
    )
    fast = adapt(learner, meta, task).moved
    assert relative_error(fast, expected) < TOLERANCE
    free = adapt(gradient(mlp(), Phase(steps=30, lr=0.1, momentum=0.9, batch=5, shuffle=True)), meta, task).moved
    assert relative_error(fast, meta) < 0.5 * relative_error(free, meta)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_auto_rgn_scales_rates_by_relative_gradients_at_each_epoch(optimizer: str) -> None:
    task, meta = task_and_meta()
    phase = Phase(steps=10, lr=0.05, batch=5, auto_rgn=True, optimizer=optimizer)  # epochs of three steps
    learner, seen = gradient(mlp(), phase), []

    def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
        groups: Groups = [{"params": net.get_submodule(block).parameters(), "lr": 0.05} for block in BLOCKS]
        return torch.optim.SGD(groups) if optimizer == "sgd" else torch.optim.Adam(groups)

    def scale(k: int, net: nn.Module, torch_optimizer: torch.optim.Optimizer) -> None:
        if k % 3:
            return
        ratios = []
        for block in BLOCKS:
            own = list(net.get_submodule(block).parameters())
            of_gradient = torch.cat([tensor.grad.flatten() for tensor in own]).norm()
            ratios.append(float(of_gradient / torch.cat([tensor.detach().flatten() for tensor in own]).norm()))
        seen.append(ratios)
        for group, ratio in zip(torch_optimizer.param_groups, ratios, strict=True):
            group["lr"] = 0.05 * ratio / max(ratios)

    expected = loop(task, meta, rows_of_steps(learner, task), optimizer_of, before=scale)
    fast = adapt(learner, meta, task)
    assert relative_error(fast.moved, expected) < (1e-7 if optimizer == "adam" else TOLERANCE)
    assert len(seen) == 4
    last = {block: ratio / max(seen[-1]) for block, ratio in zip(BLOCKS, seen[-1], strict=True)}
    assert {name: float(f) for name, f in fast.factors.items()} == pytest.approx(
        {name: last[name.partition(".")[0]] for name in meta}
    )


def test_auto_rgn_moves_a_head_of_zeros_alone_in_the_first_epoch() -> None:
    task, meta = task_and_meta()
    learner = gradient(mlp(), Phase(steps=4, lr=0.5, batch=4, auto_rgn=True), head="fresh")  # epochs of three steps
    states = walk(learner, meta, task)
    body = [name for name in meta if not name.startswith("head")]
    assert all(float((states[3].moved[name] - meta[name]).abs().max()) < 1e-9 for name in body)
    assert all(float((states[4].moved[name] - meta[name]).abs().max()) > 1e-6 for name in body)


def test_lp_ft_continues_exactly_from_the_probe() -> None:
    task, meta = task_and_meta()
    probing = Phase(groups=("head",), steps=6, lr=0.3, batch=5, shuffle=True)
    tuning = Phase(steps=5, lr=0.05, momentum=0.9, batch=5)
    probed = walk(gradient(mlp(), probing, head="fresh"), meta, task)[-1].moved
    states = walk(gradient(mlp(), probing, tuning, head="fresh"), meta, task)
    assert set(probed) == {"head.weight", "head.bias"}
    for name, tensor in states[6].moved.items():
        assert torch.equal(tensor, probed.get(name, meta[name])), name
    tuned = adapt(gradient(mlp(), tuning), meta | probed, task).moved
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in states[-1].moved.items())


def test_blocks_are_unfrozen_from_the_last_to_the_first() -> None:
    from distmeta.methods import fine_tuning

    task, meta = task_and_meta()
    config = fine_tuning(lr=0.1, steps=2, batch=4, unfreeze=("block2", "block1"), unfreeze_steps=2).learner
    states = [state.moved for state in walk(GradientLearner(config, mlp(), "cross_entropy"), meta, task)]

    def moving(before: Params, after: Params) -> set[str]:
        return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}

    assert [moving(a, b) for a, b in itertools.pairwise(states)] == [
        *2 * [{"head"}],
        *2 * [{"head", "block2"}],
        *2 * [{"head", "block2", "block1"}],
    ]


# MeRLin


def with_source(episodes: Episode, *, numbers: bool = False) -> Episode:
    """The tasks, with examples of other classes, or of other maps, as role `source`."""
    rng = torch.Generator().manual_seed(5)
    inputs = torch.randn(episodes.num_tasks, 9, 6, generator=rng, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (episodes.num_tasks, 9), generator=rng)
    if numbers:
        targets = torch.randn(episodes.num_tasks, 9, CLASSES, generator=rng, dtype=torch.float64)
    return Episode({**episodes.roles, SOURCE: Batch(inputs, targets)})


def terms_of(objective: Any = cross_entropy, rho: float = 0.6) -> tuple[OuterTerm, ...]:
    return (OuterTerm(QUERY, objective, weight=rho), OuterTerm(SOURCE, objective, at="meta", head="source"))


INNER: dict[str, Callable[[], Learner]] = {
    "ridge": lambda: RidgeLearner(RidgeConfig(scale=3.0), mlp(source=CLASSES), WAY),
    "steps": lambda: gradient(
        mlp(source=CLASSES),
        Phase(groups=("head",), lr=0.3, steps=6, momentum=0.9, weight_decay=0.02),
        head="fresh",
    ),
}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
def test_the_gradient_of_merlin_is_that_of_central_differences(inner: str, engine: Any) -> None:
    learner, episodes, terms = INNER[inner](), with_source(classification(6, shots=4)), terms_of()
    meta = {name: t for name, t in perturbed(learner.init(0)).items() if name not in learner.fresh}
    meta |= {name: t for name, t in learner.init(0).items() if name in learner.fresh}
    grads = mean_gradient(learner, EXACT, meta, episodes, engine, terms)
    assert {"source.weight", "source.bias"} <= set(grads)
    assert not {"head.weight", "head.bias"} & set(grads)

    def loss(direction: Params, size: float) -> float:
        moved = {name: tensor + size * direction.get(name, 0.0) for name, tensor in meta.items()}
        return update(learner, EXACT, moved, episodes, engine, terms).metrics["loss"] / episodes.num_tasks

    rng = torch.Generator().manual_seed(0)
    for name, grad in grads.items():
        direction = {name: torch.randn(grad.shape, generator=rng, dtype=torch.float64)}
        slope = (loss(direction, 1e-5) - loss(direction, -1e-5)) / 2e-5
        assert float((grad * direction[name]).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_a_head_in_closed_form_is_where_the_steps_end() -> None:
    """|X W - Y|^2 + lambda |W|^2 is N O times the mean squared error with l2sp = 2 lambda / (N O), from zeros."""
    backbone, episodes = mlp(outputs=2, source=CLASSES), with_source(regression(6, 2, count=12), numbers=True)
    regularisation, count = 2.0, 12 * 2
    closed = RidgeLearner(RidgeConfig(regularisation=regularisation, learned=False), backbone, 2)
    phase = Phase(groups=("head",), lr=0.4, steps=150, momentum=0.8, l2sp=2 * regularisation / count)
    iterated = gradient(backbone, phase, objective="mse", head="fresh")
    meta, terms = perturbed(backbone.init(0)), terms_of(mse)
    for task in single_tasks(episodes):
        head = adapt(closed, meta, task).weight
        moved = adapt(iterated, meta, task).moved
        torch.testing.assert_close(moved["head.weight"], head[:-1].T, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(moved["head.bias"], head[-1], rtol=1e-6, atol=1e-7)
    by_steps = mean_gradient(iterated, EXACT, meta, episodes, terms=terms)
    own = {name: tensor for name, tensor in meta.items() if not name.startswith("head")}
    solved = mean_gradient(closed, EXACT, own, episodes, terms=terms)
    assert worst_relative_error(by_steps, solved) < 1e-5
