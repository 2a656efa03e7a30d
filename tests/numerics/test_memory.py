"""`engine.memory`: `flat` gives the bits of `unrolled` without storing the autograd graphs of all inner steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.live_bytes import LiveBytes
from distmeta.config import EngineConfig, ImplicitConfig, Phase
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.implicit import Implicit
from distmeta.methods.learners.base import Learner
from distmeta.models.base import Backbone

from .problems import EXACT, FIRST_ORDER, classification, conv4, gradient, mlp, perturbed, update

# By name; K is the number of inner steps.
LEARNERS: dict[str, Callable[[Backbone, int], Learner]] = {
    "plain": lambda backbone, k: gradient(backbone, Phase(lr=0.2, steps=k)),
    "head": lambda backbone, k: gradient(backbone, Phase(groups=("head",), lr=0.2, steps=k)),
    "rates": lambda backbone, k: gradient(backbone, Phase(lr=0.2, steps=k), learned_lr=True),
    "mini-batches": lambda backbone, k: gradient(backbone, Phase(lr=0.1, steps=k, batch=4)),
    "Adam": lambda backbone, k: gradient(backbone, Phase(lr=0.01, steps=k, optimizer="adam")),
    "L2-SP": lambda backbone, k: gradient(backbone, Phase(lr=0.2, steps=k, l2sp=0.5)),
    "fresh": lambda backbone, k: gradient(backbone, Phase(lr=0.2, steps=k), head="fresh"),
    "phases": lambda backbone, k: gradient(
        backbone, Phase(groups=("head",), lr=0.2), Phase(lr=0.1, objective="entropy", steps=k - 1)
    ),
}
NETWORKS: dict[str, tuple[Callable[[], Backbone], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "conv4": (conv4, (1, 16, 16)),
}


def peak(steps: int, memory: str, strategy: str, estimator: Estimator = EXACT, l2sp: float = 0.0) -> tuple[int, int]:
    """Peak bytes of an update, and bytes of the fast weights of a task."""
    phase = Phase(lr=0.01, steps=steps, l2sp=l2sp)
    learner, episodes = gradient(conv4(), phase), classification(1, 16, 16, tasks=1, shots=8)
    meta = perturbed(learner.init(0), size=0.05)
    engine = EngineConfig.model_validate({"strategy": strategy, "memory": memory})
    with LiveBytes() as live:
        update(learner, estimator, meta, episodes, engine)
    return live.peak, sum(tensor.nbytes for tensor in meta.values())


@pytest.mark.parametrize("network", ["mlp", pytest.param("conv4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LEARNERS)
def test_both_memory_modes_give_the_same_bits(kind: str, steps: int, network: str) -> None:
    make, shape = NETWORKS[network]
    learner, episodes = LEARNERS[kind](make(), steps), classification(*shape, tasks=3)
    meta = perturbed(learner.init(0), size=0.05)
    for estimator in (EXACT, FIRST_ORDER):
        for strategy, chunk in (("loop", None), ("vmap", None), ("vmap", 2)):
            values = {"strategy": strategy, "chunk": chunk}
            unrolled, flat = (
                update(learner, estimator, meta, episodes, EngineConfig.model_validate({**values, "memory": memory}))
                for memory in ("unrolled", "flat")
            )
            assert flat.metrics == unrolled.metrics
            assert all(torch.equal(flat.grad[name], tensor) for name, tensor in unrolled.grad.items())
            assert any(bool(tensor.any()) for tensor in flat.grad.values())


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_states_that_are_computed_again_give_the_same_bits(strategy: str) -> None:
    learner, episodes = gradient(mlp(), Phase(lr=0.01, steps=23, optimizer="adam")), classification(6, tasks=3)
    meta = perturbed(learner.init(0), size=0.05)
    unrolled, flat = (
        update(learner, EXACT, meta, episodes, EngineConfig.model_validate({"strategy": strategy, "memory": memory}))
        for memory in ("unrolled", "flat")
    )
    assert flat.metrics == unrolled.metrics
    assert all(torch.equal(flat.grad[name], tensor) for name, tensor in unrolled.grad.items())


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
def test_flat_memory_grows_by_the_states_and_unrolled_memory_by_the_graphs(strategy: str) -> None:
    few, many = 3, 23
    flat, state = peak(few, "flat", strategy)
    more_flat, _ = peak(many, "flat", strategy)
    unrolled, _ = peak(few, "unrolled", strategy)
    more_unrolled, _ = peak(many, "unrolled", strategy)
    # Of 24 states, one in four and those of one stretch.
    assert (more_flat - flat) / (many - few) <= 0.5 * state
    assert (more_unrolled - unrolled) / (many - few) > 10 * state
    assert flat < unrolled
    assert more_flat < 1.5 * flat


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_memory_of_an_implicit_gradient_does_not_grow_with_the_steps(strategy: str) -> None:
    implicit = Implicit(ImplicitConfig())
    few, many = (peak(steps, "auto", strategy, implicit, l2sp=2.0)[0] for steps in (5, 100))
    assert many == pytest.approx(few, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "resolved", "other"),
    [(16, "unrolled", "flat"), (17, "flat", "unrolled")],
)
def test_auto_is_flat_for_long_adaptations(steps: int, resolved: str, other: str) -> None:
    auto_peak, resolved_peak, other_peak = (peak(steps, memory, "loop")[0] for memory in ("auto", resolved, other))
    assert abs(auto_peak - resolved_peak) < 0.1 * abs(auto_peak - other_peak)
