"""Task operations as torch runs them: parts, their pullbacks, and the two ways of keeping what the way back needs."""

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

# Head first, then all; a frozen body's features in neither, Adam's moments in both.
PHASES = (Phase(groups=("head",), lr=0.1, steps=2), Phase(lr=0.01, steps=2, batch=4, optimizer="adam"))


def made(*phases: Phase, tasks: int = 1) -> tuple[Learner, Params, Episode]:
    """A learner of these phases, or of prototypes if there are none; parameters and tasks for it."""
    learner: Learner = gradient(mlp(), *phases) if phases else PrototypeLearner(mlp(), WAY)
    return learner, perturbed(learner.init(0)), classification(6, tasks=tasks)


def assert_same_state(found: object, expected: object) -> None:
    left, right = flatten(found), flatten(expected)
    assert left[1] == right[1]
    for a, b in zip(left[0], right[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("phases", [(), (Phase(steps=0),), (Phase(steps=1),), (Phase(steps=3),), PHASES])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_adapting_is_the_learners_own_adaptation(lift: str, phases: tuple[Phase, ...]) -> None:
    tasks = 1 if lift == "loop" else 3
    learner, meta, episodes = made(*phases, tasks=tasks)
    ops = EagerOps(learner, lift)
    alone = [learner.adapt(meta, task.support) for task in single_tasks(episodes)]
    expected = tree_map(lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else None, *alone)
    assert_same_state(ops.adapt(meta, episodes), expected)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    assert_same_state(fast, expected)
    together = lift == "vmap" and learner.num_steps > 0
    assert len(pullbacks) == learner.num_steps + (0 if together else 1)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_states_and_derivatives_carry_no_history(lift: str, flat: bool) -> None:
    learner, meta, episodes = made(*PHASES)
    ops = EagerOps(learner, lift, flat=flat)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    total, cotangent, metrics = ops.score_grad(meta, fast, episodes)
    found = [fast, total, cotangent, metrics]
    for pullback in reversed(pullbacks):
        part, cotangent = pullback(cotangent)
        found += [part, cotangent]
    assert not any(tensor.requires_grad for tensor in flatten(found)[0])
    assert cotangent == (), "there is no state before the start"


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_pullbacks_of_the_parts_together_are_that_of_adaptation(lift: str, flat: bool) -> None:
    learner, meta, episodes = made(*PHASES)
    ops = EagerOps(learner, lift, flat=flat)
    fast, pullbacks = ops.adapt_recorded(meta, episodes)
    direction = tree_map(lambda leaf: torch.ones_like(leaf) / leaf.numel() if isinstance(leaf, Tensor) else None, fast)
    cotangent, found = flatten(direction)[0], {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
    for pullback in reversed(pullbacks):
        part, cotangent = pullback(cotangent)
        found = {name: found[name] + part[name] if name in part else found[name] for name in found}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    adapted = flatten(learner.adapt(leaves, single_tasks(episodes)[0].support))[0]
    total = sum((leaf.mean() for leaf in adapted), torch.zeros((), dtype=torch.float64))
    expected = torch.autograd.grad(total, list(leaves.values()))
    for name, tensor in zip(meta, expected, strict=True):
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def test_zero_cotangents_come_back_as_zero_ones() -> None:
    learner, meta, episodes = made(Phase(steps=1))
    for flat in (False, True):
        fast, pullbacks = EagerOps(learner, "loop", flat=flat).adapt_recorded(meta, episodes)
        part, cotangent = pullbacks[-1]((None,) * len(flatten(fast)[0]))
        assert part == {}
        assert set(cotangent) == {None}


def test_parts_of_one_phase_share_a_key() -> None:
    learner, _, episodes = made(*PHASES, tasks=2)
    keys = {lift: [part.key for part in EagerOps(learner, lift)._parts(episodes.support)] for lift in ("loop", "vmap")}
    assert keys["loop"] == [("start",), ("step", 0), ("step", 0), ("step", 1), ("step", 1)]
    assert keys["vmap"] == [("open", 0), ("step", 0), ("step", 1), ("step", 1)]


def test_the_size_of_an_adaptation_grows_with_its_steps() -> None:
    sizes = []
    for steps in (0, 1, 4, 8):
        learner, meta, episodes = made(Phase(steps=steps))
        sizes.append(EagerOps(learner, "loop").adaptation_size(meta, episodes))
    assert sizes[0] == 0 < sizes[1]
    assert sizes[2:] == [4 * sizes[1], 8 * sizes[1]]


def test_meta_parameters_and_tasks_are_not_changed() -> None:
    learner, meta, episodes = made(*PHASES, tasks=2)
    before = [tensor.clone() for tensor in flatten((meta, episodes.tensors()))[0]]
    for flat in (False, True):
        ops = EagerOps(learner, "vmap", flat=flat)
        fast, pullbacks = ops.adapt_recorded(meta, episodes)
        kept = [tensor.clone() for tensor in flatten(fast)[0]]
        _, cotangent, _ = ops.score_grad(meta, fast, episodes)
        for pullback in reversed(pullbacks):
            _, cotangent = pullback(cotangent)
        ops.displacement(meta, fast)
        assert all(map(torch.equal, kept, flatten(fast)[0]))
    assert all(map(torch.equal, before, flatten((meta, episodes.tensors()))[0]))
