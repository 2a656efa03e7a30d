"""Eager task operations: segments and their pullbacks, with stored and with recomputed autograd graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.config import Phase
from distmeta.core.types import Episode, Params
from distmeta.engine.ops import EagerOps
from distmeta.engine.trees import flatten
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.prototype import PrototypeLearner

from ...numerics.problems import WAY, classification, gradient, mlp, perturbed, single_tasks

# The head, then everything with Adam: the state holds moments, and no cached features.
PHASES = (Phase(groups=("head",), lr=0.1, steps=2), Phase(lr=0.01, steps=2, batch=4, optimizer="adam"))


def made(*phases: Phase, tasks: int = 1) -> tuple[Learner, Params, Episode]:
    """A learner of these phases, or of prototypes if there are none; parameters and tasks for it."""
    learner: Learner = gradient(mlp(), *phases) if phases else PrototypeLearner(mlp(), WAY)
    return learner, perturbed(learner.init(0)), classification(6, tasks=tasks)


def assert_same_state(actual: object, expected: object) -> None:
    (actual_tensors, actual_structure), (tensors, structure) = flatten(actual), flatten(expected)
    assert actual_structure == structure
    for left, right in zip(actual_tensors, tensors, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("phases", [(), (Phase(steps=0),), (Phase(steps=1),), (Phase(steps=3),), PHASES])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_adapt_agrees_with_the_learner_on_each_task(lift: str, phases: tuple[Phase, ...]) -> None:
    tasks = 1 if lift == "loop" else 3
    learner, meta, episodes = made(*phases, tasks=tasks)
    ops = EagerOps(learner, lift)
    alone = [learner.adapt(meta, task.support) for task in single_tasks(episodes)]
    expected = tree_map(lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else None, *alone)
    assert_same_state(ops.adapt(meta, episodes), expected)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    assert_same_state(fast, expected)
    start_is_fused = lift == "vmap" and learner.num_steps > 0
    assert len(pullbacks) == learner.num_steps + (0 if start_is_fused else 1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_states_and_derivatives_are_detached(lift: str, recompute: bool) -> None:
    learner, meta, episodes = made(*PHASES)
    ops = EagerOps(learner, lift, recompute=recompute)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    total, cotangent, metrics = ops.score_grad(meta, fast, episodes)
    results = [fast, total, cotangent, metrics]
    for pullback in reversed(pullbacks):
        by_meta, cotangent = pullback(cotangent)
        results += [by_meta, cotangent]
    assert not any(tensor.requires_grad for tensor in flatten(results)[0])
    assert cotangent == (), "there is no state before the start"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_the_pullbacks_of_all_segments_compose_to_that_of_adaptation(lift: str, recompute: bool) -> None:
    learner, meta, episodes = made(*PHASES)
    ops = EagerOps(learner, lift, recompute=recompute)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    direction = tree_map(lambda leaf: torch.ones_like(leaf) / leaf.numel() if isinstance(leaf, Tensor) else None, fast)
    cotangent, total = flatten(direction)[0], {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
    for pullback in reversed(pullbacks):
        by_meta, cotangent = pullback(cotangent)
        total = {name: total[name] + by_meta[name] if name in by_meta else total[name] for name in total}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    adapted = flatten(learner.adapt(leaves, single_tasks(episodes)[0].support))[0]
    scalar = sum((leaf.mean() for leaf in adapted), torch.zeros((), dtype=torch.float64))
    expected = torch.autograd.grad(scalar, list(leaves.values()))
    for name, tensor in zip(meta, expected, strict=True):
        torch.testing.assert_close(total[name], tensor, rtol=1e-10, atol=1e-12)


def test_the_pullback_of_zero_is_zero() -> None:
    learner, meta, episodes = made(Phase(steps=1))
    for recompute in (False, True):
        fast, pullbacks = EagerOps(learner, "loop", recompute=recompute).adapt_recorded(meta, episodes)
        by_meta, cotangent = pullbacks[-1]((None,) * len(flatten(fast)[0]))
        assert by_meta == {}
        assert set(cotangent) == {None}


def test_steps_of_one_phase_share_a_key() -> None:
    learner, _, episodes = made(*PHASES, tasks=2)
    keys = {
        lift: [segment.key for segment in EagerOps(learner, lift)._segments(episodes.support)]
        for lift in ("loop", "vmap")
    }
    assert keys["loop"] == [("start",), ("step", 0), ("step", 0), ("step", 1), ("step", 1)]
    assert keys["vmap"] == [("start_and_step", 0), ("step", 0), ("step", 1), ("step", 1)]


def test_the_number_of_operations_grows_with_the_steps() -> None:
    sizes = []
    for steps in (0, 1, 4, 8):
        learner, meta, episodes = made(Phase(steps=steps))
        sizes.append(EagerOps(learner, "loop").num_operations(meta, episodes))
    assert sizes[0] == 0 < sizes[1]
    assert sizes[2:] == [4 * sizes[1], 8 * sizes[1]]


def test_meta_parameters_and_tasks_are_not_changed() -> None:
    learner, meta, episodes = made(*PHASES, tasks=2)
    before = [tensor.clone() for tensor in flatten((meta, episodes.tensors()))[0]]
    for recompute in (False, True):
        ops = EagerOps(learner, "vmap", recompute=recompute)
        fast, pullbacks = ops.adapt_recorded(meta, episodes)
        kept = [tensor.clone() for tensor in flatten(fast)[0]]
        _, cotangent, _ = ops.score_grad(meta, fast, episodes)
        for pullback in reversed(pullbacks):
            _, cotangent = pullback(cotangent)
        ops.displacement(meta, fast)
        assert all(map(torch.equal, kept, flatten(fast)[0]))
    assert all(map(torch.equal, before, flatten((meta, episodes.tensors()))[0]))
