"""Eager task operations: segments and their pullbacks, with stored and with recomputed autograd graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.config import Phase
from distmeta.core.types import SUPPORT, Episode, Params
from distmeta.engine.ops import EagerOps, Memory
from distmeta.engine.trees import flatten
from distmeta.methods.estimators.base import Cotangent, Pullback, Visit
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.models.network import Network

from ...adapting import query_term
from ...numerics.problems import WAY, classification, gradient, mlp, perturbed, quadratic, regression, single_tasks

# The head, then everything with Adam: the state holds moments, and no cached features.
PHASES = (Phase(groups=("head",), lr=0.1, steps=2), Phase(lr=0.01, steps=2, batch=4, optimizer="adam"))
MEMORY: tuple[Memory, ...] = ("unrolled", "flat")


def made(*phases: Phase, tasks: int = 1) -> tuple[Learner, Params, Episode]:
    """A learner of these phases, or of prototypes if there are none; parameters and tasks for it."""
    learner: Learner = gradient(mlp(), *phases) if phases else PrototypeLearner(mlp(), WAY)
    return learner, perturbed(learner.init(0)), classification(6, tasks=tasks)


def ops_of(learner: Learner, lift: str, memory: Memory = "unrolled") -> EagerOps:
    return EagerOps(learner, lift, query_term(), memory)


def recorded(ops: EagerOps, meta: Params, episodes: Episode) -> tuple[Any, list[Pullback]]:
    """The adapted state, and the pullbacks of all segments in order."""
    visits = list(ops.walk(meta, episodes, record=True))
    return visits[-1].state, [visit.pullback for visit in visits if visit.pullback is not None]


def by_hand(learner: Learner, meta: Params, task: Episode) -> list[Any]:
    """The adapted state of one task after every number of inner steps, by the learner's own functions."""
    net, states = Network(learner.backbone), []
    states.append(learner.start(net, meta, task))
    for stage in learner.stages({role: len(task[role].inputs) for role in learner.roles}):
        scalars = torch.tensor(stage.scalars, dtype=torch.float64)
        states.append(learner.advance(net, meta, states[-1], stage.select(task), stage.kind, scalars))
    return states


def assert_same_state(actual: object, expected: object) -> None:
    (actual_tensors, actual_structure), (tensors, structure) = flatten(actual), flatten(expected)
    assert actual_structure == structure
    for left, right in zip(actual_tensors, tensors, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


ALL_PHASES = [(), (Phase(steps=0),), (Phase(steps=1),), (Phase(steps=3),), PHASES]


@pytest.mark.parametrize("phases", ALL_PHASES)
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_walks_visit_the_states_of_the_learner_on_each_task(lift: str, phases: tuple[Phase, ...]) -> None:
    tasks = 1 if lift == "loop" else 3
    learner, meta, episodes = made(*phases, tasks=tasks)
    ops = ops_of(learner, lift)
    alone = [by_hand(learner, meta, task) for task in single_tasks(episodes)]
    num_steps = len(alone[0]) - 1
    expected = [
        tree_map(lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else None, *states)
        for states in zip(*alone, strict=True)
    ]
    assert ops.num_steps(episodes) == num_steps
    assert_same_state(ops.adapt(meta, episodes).fast, expected[-1])
    for record in (False, True):
        visits = list(ops.walk(meta, episodes, record=record, marks=(0,)))
        assert [visit.k for visit in visits] == list(range(num_steps + 1))
        for visit in visits:
            assert (visit.pullback is not None) == record
            assert_same_state(visit.state.fast, expected[visit.k])
    start_is_fused = lift == "vmap" and num_steps > 0
    assert len(recorded(ops, meta, episodes)[1]) == num_steps + (0 if start_is_fused else 1)


@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_a_walk_goes_on_from_a_state(lift: str) -> None:
    learner, meta, episodes = made(*PHASES, tasks=1 if lift == "loop" else 3)
    ops = ops_of(learner, lift)
    whole = list(ops.walk(meta, episodes, marks=(0,)))
    before = list(ops.walk(meta, episodes, marks=(0,), last=2))
    after = list(ops.walk(meta, episodes, state=before[-1].state, first=2))
    assert [visit.k for visit in before + after] == [0, 1, 2, 3, 4]
    for visit, expected in zip(before + after, whole, strict=True):
        assert_same_state(visit.state, expected.state)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_states_and_derivatives_are_detached(lift: str, memory: Memory) -> None:
    learner, meta, episodes = made(*PHASES)
    ops = ops_of(learner, lift, memory)
    state, pullbacks = recorded(ops, meta, episodes)
    slopes = ops.score_grad(meta, state, episodes)
    cotangent, results = slopes.by_state, [state, slopes]
    for pullback in reversed(pullbacks):
        by_meta, cotangent = pullback(cotangent)
        results += [by_meta, cotangent]
    assert not any(tensor.requires_grad for tensor in flatten(results)[0])
    assert cotangent == (), "there is no state before the start"


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_the_pullbacks_of_all_segments_compose_to_that_of_adaptation(lift: str, memory: Memory) -> None:
    learner, meta, episodes = made(*PHASES)
    state, pullbacks = recorded(ops_of(learner, lift, memory), meta, episodes)
    cotangent: Cotangent = tuple(torch.ones_like(tensor) / tensor.numel() for tensor in flatten(state)[0])
    total = {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
    for pullback in reversed(pullbacks):
        by_meta, cotangent = pullback(cotangent)
        total = {name: total[name] + by_meta[name] if name in by_meta else total[name] for name in total}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    adapted = flatten(by_hand(learner, leaves, single_tasks(episodes)[0])[-1])[0]
    scalar = sum((leaf.mean() for leaf in adapted), torch.zeros((), dtype=torch.float64))
    expected = torch.autograd.grad(scalar, list(leaves.values()))
    for name, tensor in zip(meta, expected, strict=True):
        torch.testing.assert_close(total[name], tensor, rtol=1e-10, atol=1e-12)


def test_the_pullback_of_zero_is_zero() -> None:
    learner, meta, episodes = made(Phase(steps=1))
    for memory in MEMORY:
        state, pullbacks = recorded(ops_of(learner, "loop", memory), meta, episodes)
        by_meta, cotangent = pullbacks[-1]((None,) * len(flatten(state)[0]))
        assert by_meta == {}
        assert set(cotangent) == {None}


# A step taken alone, for implicit gradients.


def assert_same_derivatives(actual: tuple[Params, Cotangent], expected: tuple[Params, Cotangent]) -> None:
    assert set(actual[0]) == set(expected[0])
    for name, tensor in expected[0].items():
        torch.testing.assert_close(actual[0][name], tensor, rtol=1e-12, atol=1e-13)
    for left, right in zip(actual[1], expected[1], strict=True):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_a_linearised_step_is_that_of_the_recorded_walk(lift: str, memory: Memory) -> None:
    learner, meta, episodes = made(*PHASES, tasks=1 if lift == "loop" else 2)
    ops = ops_of(learner, lift, memory)
    visits = list(ops.walk(meta, episodes, record=True, marks=(0,)))
    for k in range(len(visits) - 1):
        visit, walked = ops.linearise(meta, episodes, visits[k].state, k), visits[k + 1]
        assert_same_state(visit.state, walked.state)
        assert visit.k == walked.k == k + 1
        assert visit.pullback is not None and walked.pullback is not None
        cotangent = tuple(torch.ones_like(tensor) for tensor in flatten(walked.state)[0])
        expected = walked.pullback(cotangent)
        for _ in range(2):  # it may be called again
            assert_same_derivatives(visit.pullback(cotangent), expected)


def solve(visit: Visit, lr: float, l2sp: float, right: list[Tensor]) -> list[Tensor]:
    """(I + H / l2sp)^-1 `right` by conjugate gradient, from products with the transposed Jacobian of an SGD step,
    I - lr (H + l2sp I).
    """
    assert visit.pullback is not None
    num_others = len(flatten(visit.state)[0]) - len(right)

    def product(vectors: list[Tensor]) -> list[Tensor]:
        assert visit.pullback is not None
        pulled = visit.pullback((*vectors, *(None,) * num_others))[1][: len(vectors)]
        return [(v - p) / (lr * l2sp) for v, p in zip(vectors, pulled, strict=True) if p is not None]

    def dot(left: list[Tensor], other: list[Tensor]) -> Tensor:
        return sum(((a * b).sum() for a, b in zip(left, other, strict=True)), torch.zeros((), dtype=torch.float64))

    x, residual = [torch.zeros_like(tensor) for tensor in right], right
    direction, size = residual, dot(residual, residual)
    for _ in range(sum(tensor.numel() for tensor in right)):
        curved = product(direction)
        length = size / dot(direction, curved)
        x = [a + length * d for a, d in zip(x, direction, strict=True)]
        residual = [r - length * c for r, c in zip(residual, curved, strict=True)]
        size, before = dot(residual, residual), size
        if size < 1e-28:
            break
        direction = [r + size / before * d for r, d in zip(residual, direction, strict=True)]
    return x


def test_conjugate_gradient_over_a_linearised_step_inverts_the_hessian_of_a_quadratic() -> None:
    lr, l2sp, episodes = 0.1, 0.7, regression(4, 2, tasks=1)
    backbone = mlp(4, 2, ())
    learner = gradient(backbone, Phase(lr=lr, steps=1, l2sp=l2sp), objective="mse")
    meta = perturbed(backbone.init(0))
    ops = EagerOps(learner, "loop", query_term("mse"))
    visit = ops.linearise(meta, episodes, ops.start(meta, episodes).state, 0)
    names = list(visit.state.fast.moved)
    assert names == ["head.weight", "head.bias"]
    rng = torch.Generator().manual_seed(1)
    right = [torch.randn(visit.state.fast.moved[name].shape, generator=rng, dtype=torch.float64) for name in names]
    weight, bias = solve(visit, lr, l2sp, right)
    hessian, _ = quadratic(single_tasks(episodes)[0].support)
    stacked = torch.cat((right[0][0].T, right[1]))
    expected = torch.linalg.solve(torch.eye(5, dtype=torch.float64) + hessian / l2sp, stacked)
    torch.testing.assert_close(torch.cat((weight[0].T, bias)), expected, rtol=1e-9, atol=1e-11)


def test_steps_of_one_phase_share_a_key() -> None:
    learner, meta, episodes = made(*PHASES, tasks=2)
    keys = {}
    for lift in ("loop", "vmap"):
        ops = ops_of(learner, lift)
        segments = ops._segments.of_walk(meta, episodes, ops._segments.stages(episodes), fuse=lift == "vmap")
        keys[lift] = [segment.key for segment in segments]
    form, batch = episodes.only((SUPPORT,)).form, ("inputs", "targets")
    form = (False, *form[1:])  # nothing draws, so no seeds are passed
    first, second = ("step", 0, *batch), ("step", 1, *batch)
    assert keys["loop"] == [("start", form), first, first, second, second]
    assert keys["vmap"] == [("start_and_step", 0, form, *batch), first, second, second]


def test_the_number_of_operations_grows_with_the_steps() -> None:
    sizes = []
    for steps in (0, 1, 4, 8):
        learner, meta, episodes = made(Phase(steps=steps))
        sizes.append(ops_of(learner, "loop").num_operations(meta, episodes))
    assert sizes[0] == 0 < sizes[1]
    assert sizes[2:] == [4 * sizes[1], 8 * sizes[1]]


def test_meta_parameters_and_tasks_are_not_changed() -> None:
    learner, meta, episodes = made(*PHASES, tasks=2)
    before = [tensor.clone() for tensor in flatten((meta, episodes.tensors()))[0]]
    for memory in MEMORY:
        ops = ops_of(learner, "vmap", memory)
        state, pullbacks = recorded(ops, meta, episodes)
        kept = [tensor.clone() for tensor in flatten(state)[0]]
        cotangent = ops.score_grad(meta, state, episodes).by_state
        for pullback in reversed(pullbacks):
            _, cotangent = pullback(cotangent)
        ops.displacement(meta, state)
        assert all(map(torch.equal, kept, flatten(state)[0]))
    assert all(map(torch.equal, before, flatten((meta, episodes.tensors()))[0]))
