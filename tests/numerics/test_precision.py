"""Error of each estimator's outer signal under each precision policy, on a small conv4."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import Params
from distmeta.engine.precision import Matmul, allowed_policies, library_precision, products
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.models.base import Backbone

from .problems import (
    DISPLACEMENT,
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    WAY,
    as_type,
    classification,
    conv4,
    gradient,
    mean_gradient,
    perturbed,
    relative_error,
    worst_relative_error,
)

needs_bf16 = pytest.mark.skipif("bf16" not in allowed_policies("cpu"), reason="this processor has no bfloat16 products")
ROWS: dict[str, tuple[Callable[[Backbone], Learner], Estimator]] = {
    "exact": (lambda backbone: gradient(backbone, Phase(lr=0.1, steps=2)), EXACT),
    "first order": (lambda backbone: gradient(backbone, Phase(lr=0.1, steps=2)), FIRST_ORDER),
    "displacement": (lambda backbone: gradient(backbone, Phase(lr=0.1, steps=3, batch=4)), DISPLACEMENT),
    "prototype": (lambda backbone: PrototypeLearner(backbone, WAY), EXACT),
}


def signals(row: str, policy: Matmul, engine: EngineConfig = LOOP) -> tuple[Params, Params]:
    """The mean outer signal under a policy, and in float64."""
    make, estimator = ROWS[row]
    learner, episodes = make(conv4()), classification(1, 16, 16, tasks=4)
    meta = perturbed(learner.init(0), size=0.05)
    exact = mean_gradient(learner, estimator, meta, episodes, LOOP)
    single = {name: tensor.float() for name, tensor in meta.items()}
    with library_precision(policy), products(policy):
        return mean_gradient(learner, estimator, single, as_type(episodes, torch.float32), engine), exact


@pytest.mark.parametrize("row", ROWS)
def test_float32_has_a_relative_error_below_1e_4(row: str) -> None:
    signal, exact = signals(row, "float32")
    assert relative_error(signal, exact) < 1e-4
    assert worst_relative_error(signal, exact, floor=1e-2) < 1e-4


@needs_bf16
@pytest.mark.parametrize("engine", [LOOP, VMAP], ids=["loop", "vmap"])
@pytest.mark.parametrize("row", ROWS)
def test_bf16_has_a_relative_error_below_one_half(row: str, engine: EngineConfig) -> None:
    signal, exact = signals(row, "bf16", engine)
    assert all(tensor.dtype == torch.float32 for tensor in signal.values())
    assert 1e-3 < relative_error(signal, exact) < 0.5
