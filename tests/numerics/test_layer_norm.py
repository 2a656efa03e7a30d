"""Meta-gradients through layer norms of modules: torch gets their batched second derivatives wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distmeta.config import EngineConfig, Phase
from distmeta.models.module import ModuleBackbone

from .problems import EXACT, LOOP, VMAP, WAY, classification, gradient, mean_gradient, perturbed, relative_error


def network(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two layer norms, the second behind tuned layers: its inputs depend on the parameters."""
    return nn.Sequential(
        nn.Linear(*shape, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, outputs)
    )


@pytest.mark.parametrize("engine", [VMAP, EngineConfig(strategy="vmap", memory="flat")], ids=["unrolled", "flat"])
def test_a_module_with_layer_norms_has_the_meta_gradient_of_a_loop(engine: EngineConfig) -> None:
    backbone = ModuleBackbone(network, (6,), {"head": WAY}, torch.float64)
    assert not backbone.limits
    learner, meta, episodes = gradient(backbone, Phase(lr=0.3, steps=2)), perturbed(backbone.init(0)), classification(6)
    expected = mean_gradient(learner, EXACT, meta, episodes, LOOP)
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes, engine), expected) < 1e-12
