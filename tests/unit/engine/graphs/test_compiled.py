"""Compiled strategies: which graphs are made and when, and that native code agrees with the eager loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import Params, Update
from distmeta.engine.engine import Engine
from distmeta.engine.graphs import compiled
from distmeta.engine.graphs.compiled import canonical
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.methods.objectives import OBJECTIVES
from distmeta.methods.terms import OuterTerm

from ....interpreted import InterpretedGraph
from ....numerics.problems import (
    DISPLACEMENT,
    EXACT,
    LOOP,
    WAY,
    classification,
    conv4,
    gradient,
    mlp,
    perturbed,
    relative_error,
    terms_of,
    update,
)

Graphs = list[InterpretedGraph]
ADAM = {"lr": 0.01, "batch": 4, "optimizer": "adam"}


@pytest.fixture
def _operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for each operation, however short the estimate."""
    monkeypatch.setattr(compiled, "MAX_OPERATIONS_OF_ONE_GRAPH", -1)


@pytest.fixture
def _whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for the estimate, however long."""
    monkeypatch.setattr(compiled, "MAX_OPERATIONS_OF_ONE_GRAPH", 10**9)


def config(strategy: str = "compiled", memory: str = "unrolled", chunk: int | None = None) -> EngineConfig:
    return EngineConfig.model_validate({"strategy": strategy, "memory": memory, "chunk": chunk})


def adam(steps: int) -> tuple[Learner, Params]:
    """Learned rates, Adam and mini-batches: every step has its own scalars and support rows."""
    learner = gradient(mlp(hidden=()), Phase(**ADAM, steps=steps), learned_lr=True)
    return learner, perturbed(learner.init(0), size=0.05)


def assert_agree(actual: Update, expected: Update) -> None:
    assert relative_error(actual.grad, expected.grad) < 1e-10
    assert actual.metrics == pytest.approx(expected.metrics, rel=1e-10)
    assert actual.weight == expected.weight
    assert all(tensor.is_contiguous() for tensor in actual.grad.values())


# Which graphs are made.


@pytest.mark.thorough
def test_a_short_estimate_is_one_graph_and_a_long_one_a_graph_for_each_operation(interpreted: Graphs) -> None:
    episodes, counts = classification(6), []
    for steps in (1, 2, 40):
        learner = gradient(mlp(), Phase(lr=0.01, steps=steps))
        update(learner, EXACT, learner.init(0), episodes, config())
        counts.append(len(interpreted))
        interpreted.clear()
    assert counts == [1, 1, 3], "forward and backward graph of a step, and the score"


@pytest.mark.thorough
@pytest.mark.usefixtures("_operations")
@pytest.mark.parametrize(
    ("strategy", "memory", "expected"),
    [
        ("compiled", "unrolled", 3),  # forward and backward graph of a step, the score
        # One more for the last step: its cotangents of the moments are None.
        pytest.param("compiled", "flat", 4, marks=pytest.mark.slow),
        # The first step, fused with the start, has two graphs of its own.
        pytest.param("compiled_vmap", "unrolled", 5, marks=pytest.mark.slow),
        pytest.param("compiled_vmap", "flat", 6, marks=pytest.mark.slow),
    ],
)
def test_steps_of_a_phase_share_their_graphs(strategy: str, memory: str, expected: int, interpreted: Graphs) -> None:
    for steps in (3, 6):
        learner, meta = adam(steps)
        interpreted.clear()
        update(learner, EXACT, meta, classification(6), config(strategy, memory))
        assert len(interpreted) == expected


@pytest.mark.usefixtures("_operations")
def test_graphs_without_a_product_are_not_compiled(interpreted: Graphs) -> None:
    learner = gradient(mlp(), Phase(lr=0.1))
    update(learner, DISPLACEMENT, learner.init(0), classification(6), config())
    names = [{str(node.target) for node in graph.module.graph.nodes} for graph in interpreted]
    assert len(names) == 2, "a step and the score; neither the start nor the displacement"
    assert all(targets & {"aten.mm.default", "aten.addmm.default"} for targets in names)


@pytest.mark.slow
@pytest.mark.parametrize("graphs", ["_whole", "_operations"])
def test_only_new_shapes_make_new_graphs(graphs: str, interpreted: Graphs, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(graphs)
    learner = gradient(mlp(), Phase(lr=0.1, steps=2))
    terms = terms_of(classification(6))
    meta, engine = learner.init(0), Engine(learner, EXACT, terms, config("compiled_vmap", chunk=2))
    engine.update(meta, classification(6, tasks=4))
    made = len(interpreted)
    engine.update(perturbed(meta), classification(6, tasks=6, seed=1))
    assert len(interpreted) == made > 0
    engine.update(meta, classification(6, tasks=3))
    assert len(interpreted) == 2 * made, "a smaller last chunk"
    engine.update(meta, classification(6, tasks=2, shots=1))
    assert len(interpreted) == 3 * made


@pytest.mark.slow
@pytest.mark.parametrize("graphs", ["_whole", "_operations"])
def test_graphs_are_compiled_by_the_caller_not_by_lanes(
    graphs: str, interpreted: Graphs, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(graphs)
    learner, meta = adam(3)
    episodes = classification(6, tasks=5)
    engine = Engine(learner, EXACT, terms_of(episodes), config("compiled_vmap", chunk=2), lanes=3)
    engine.update(meta, episodes)
    assert {graph.thread for graph in interpreted} == {threading.get_ident()}


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("graphs", ["_whole", "_operations"])
def test_graphs_of_other_terms_agree_with_a_loop(graphs: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(graphs)
    learner, episodes = gradient(mlp(), Phase(lr=0.1)), classification(6)
    meta, cross_entropy = learner.init(0), OBJECTIVES["cross_entropy"]
    for terms in (
        (OuterTerm("query", cross_entropy, weight=0.5),),
        (OuterTerm("query", OBJECTIVES["entropy"]),),
        (OuterTerm("query", cross_entropy, at="meta"),),
        (OuterTerm("query", cross_entropy), OuterTerm("support", cross_entropy, weight=0.3, at="each")),
    ):
        actual = update(learner, EXACT, meta, episodes, config(), terms)
        assert_agree(actual, update(learner, EXACT, meta, episodes, LOOP, terms))


def test_canonical_changes_the_layout_and_no_value() -> None:
    images = torch.rand(2, 3, 4, 5)
    tree = {"images": images, "task": images[None].transpose(2, 3), "rows": images[0, 0].T, "none": None, "lr": 0.1}
    result = canonical(tree)
    assert result["none"] is None and result["lr"] == 0.1
    assert all(torch.equal(result[name], tree[name]) for name in ("images", "task", "rows"))
    assert result["images"].is_contiguous(memory_format=torch.channels_last)
    assert result["task"][0].is_contiguous(memory_format=torch.channels_last)
    assert result["rows"].is_contiguous()


# Native code. Each graph takes seconds to compile: all combinations are tested in tests/numerics (slow).

NATIVE: dict[str, tuple[Callable[[], Learner], Estimator, tuple[int, ...], str]] = {
    "displacement, vmap": (
        lambda: gradient(mlp(hidden=(5,)), Phase(groups=("head",), lr=0.2)),
        DISPLACEMENT,
        (6,),
        "compiled_vmap",
    ),
    "prototype, pooled": (lambda: PrototypeLearner(conv4(downsample="pool"), WAY), EXACT, (1, 16, 16), "compiled"),
    "exact, strided": (lambda: gradient(conv4(), Phase(lr=0.2)), EXACT, (1, 16, 16), "compiled"),
    "mini-batches": (lambda: gradient(mlp(hidden=()), Phase(lr=0.05, steps=2, batch=4)), EXACT, (6,), "compiled"),
}
MARKS = {
    "prototype, pooled": pytest.mark.slow,
    "displacement, vmap": pytest.mark.slow,
    "mini-batches": pytest.mark.slow,
    "exact, strided": pytest.mark.slow,
}


@pytest.mark.usefixtures("native", "_whole")
@pytest.mark.parametrize("row", [pytest.param(row, marks=MARKS.get(row, ())) for row in NATIVE])
def test_native_code_of_whole_estimates_agrees_with_a_loop(row: str) -> None:
    make, estimator, shape, strategy = NATIVE[row]
    learner, episodes = make(), classification(*shape)
    meta = perturbed(learner.init(0), size=0.05)
    assert_agree(
        update(learner, estimator, meta, episodes, config(strategy)), update(learner, estimator, meta, episodes, LOOP)
    )


@pytest.mark.usefixtures("native", "_operations")
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["unrolled", "flat"])
def test_native_code_of_operations_agrees_with_a_loop_in_any_number_of_lanes(memory: str) -> None:
    (learner, meta), episodes = adam(3), classification(6, tasks=5)
    first, *others = (
        Engine(learner, EXACT, terms_of(episodes), config(memory=memory), lanes).update(meta, episodes)[0]
        for lanes in (1, 2, 3)
    )
    assert_agree(first, update(learner, EXACT, meta, episodes, LOOP))
    for other in others:
        assert other.metrics == first.metrics
        assert all(torch.equal(other.grad[name], tensor) for name, tensor in first.grad.items())


class Tagged(NamedTuple):
    """A state with a plain Python value."""

    weight: Tensor
    scale: float


@pytest.mark.usefixtures("interpreted")
def test_plain_values_of_a_state_are_part_of_the_key_of_a_graph() -> None:
    graphs, weight = compiled.GraphCache(1, "float32"), torch.eye(3)

    def scaled(state: Tagged, inputs: Tensor) -> Tensor:
        return inputs @ state.weight * state.scale

    def recorded(scale: float) -> Tensor:
        result, _ = graphs.call_recorded(("scaled",), scaled, (Tagged(weight, scale),), (torch.ones(2, 3),))
        return result

    for scale in (1.0, 2.0, 1.0):
        called = graphs.call(("scaled",), scaled, Tagged(weight, scale), torch.ones(2, 3))
        assert torch.equal(called, torch.full((2, 3), scale))
        assert torch.equal(recorded(scale), called)
