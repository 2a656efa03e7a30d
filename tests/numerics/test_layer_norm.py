"""Meta-gradients through layer and instance norms of modules: torch gets their batched second derivatives wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distmeta.config import EngineConfig, Phase
from distmeta.models.module import Make, ModuleBackbone

from .problems import EXACT, LOOP, VMAP, WAY, classification, gradient, mean_gradient, perturbed, relative_error


def network(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two layer norms, the second behind tuned layers: its inputs depend on the parameters."""
    return nn.Sequential(
        nn.Linear(*shape, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, outputs)
    )


def channels(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two instance norms, each of three channels of four numbers."""
    norms = (nn.Sequential(nn.Unflatten(1, (3, 4)), nn.InstanceNorm1d(3, affine=True), nn.Flatten()) for _ in range(2))
    return nn.Sequential(
        nn.Linear(*shape, 12), next(norms), nn.Tanh(), nn.Linear(12, 12), next(norms), nn.Linear(12, outputs)
    )


@pytest.mark.parametrize("make", [network, channels])
@pytest.mark.parametrize("engine", [VMAP, EngineConfig(strategy="vmap", memory="flat")], ids=["unrolled", "flat"])
def test_a_module_with_such_norms_has_the_meta_gradient_of_a_loop(engine: EngineConfig, make: Make) -> None:
    backbone = ModuleBackbone(make, (6,), {"head": WAY}, torch.float64)
    assert not backbone.limits
    learner, meta, episodes = gradient(backbone, Phase(lr=0.3, steps=2)), perturbed(backbone.init(0)), classification(6)
    expected = mean_gradient(learner, EXACT, meta, episodes, LOOP)
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes, engine), expected) < 1e-12
