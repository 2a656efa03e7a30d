"""`model.recompute`: blocks that keep their inputs alone give the derivatives of those that keep everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, Phase
from distmeta.methods.estimators.base import Estimator
from distmeta.models.petl.recompute import recomputed
from distmeta.models.petl.transformer import Transformer

from .petl_problems import FAMILIES, KINDS, end_to_end, kind_for, tasks, transformer
from .problems import EXACT, FIRST_ORDER, LOOP, VMAP, gradient, mean_gradient, perturbed, relative_error
from .test_memory import LiveBytes

FAST = {("bert", "lora"), ("gpt2", "mam"), ("bert", "prefix, made"), ("vit", "full")}
ROWS = [
    pytest.param(family, name, part, marks=() if (family, name) in FAST else pytest.mark.slow, id=f"{family}-{name}")
    for family in FAMILIES
    for name in KINDS
    if (part := kind_for(family, name)) is not None
]


def both(family: str, part: Mapping[str, Any]) -> tuple[Transformer, Transformer]:
    return transformer(family, part), transformer(family, part, recompute=True)


@pytest.mark.parametrize(("family", "name", "part"), ROWS)
def test_meta_gradients_are_the_same(family: str, name: str, part: dict[str, Any]) -> None:
    usual, again = both(family, part)
    meta, episodes = perturbed(usual.init(0)), tasks(family)
    episodes = episodes if family == "vit" else end_to_end(episodes)
    for estimator in (FIRST_ORDER, EXACT):
        for engine in (LOOP, VMAP):
            expected, actual = (
                mean_gradient(gradient(network, Phase(lr=0.2, steps=2)), estimator, meta, episodes, engine)
                for network in (usual, again)
            )
            # Norms of Llama compute in float32 whatever the type of the network.
            assert relative_error(actual, expected) < (1e-6 if family == "llama" else 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "share", "engine"),
    [
        pytest.param(FIRST_ORDER, 0.3, LOOP, id="order 1, loop"),
        pytest.param(FIRST_ORDER, 0.3, VMAP, id="order 1, vmap"),
        pytest.param(EXACT, 0.2, LOOP, id="order 2, loop"),
        pytest.param(EXACT, 0.2, VMAP, id="order 2, vmap"),
    ],
)
def test_deep_networks_take_less_memory(
    estimator: Estimator, share: float, engine: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "bert", {**FAMILIES["bert"], "num_hidden_layers": 12})
    peaks = []
    for network in both("bert", KINDS["lora"]):
        meta, episodes = network.init(0), end_to_end(tasks("bert", shots=4, queries=4))
        with LiveBytes() as live:
            mean_gradient(gradient(network, Phase(lr=0.2, steps=2)), estimator, meta, episodes, engine)
        peaks.append(live.peak)
    assert peaks[1] < share * peaks[0]


def test_derivatives_of_every_order() -> None:
    """x^3 y, three times by x and once by y: every order goes through the same operation."""

    def cube(x: Tensor, y: Tensor, places: Tensor) -> tuple[Tensor]:
        assert places.dtype == torch.int64
        return ((x**3 * y)[places],)

    def value(x: Tensor, y: Tensor) -> Tensor:
        return recomputed(cube, x, y, torch.tensor([1, 0]))[0].sum()

    x, y = torch.tensor([2.0, 3.0], dtype=torch.float64), torch.tensor([5.0, 7.0], dtype=torch.float64)
    third = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(value)))
    assert torch.equal(torch.diagonal(torch.diagonal(third(x, y), dim1=0, dim2=1), dim1=0, dim2=1), 6 * y)
    mixed = torch.func.jacrev(torch.func.jacrev(value), argnums=1)
    assert torch.equal(torch.diagonal(mixed(x, y)), 3 * x**2)
    assert torch.autograd.gradcheck(value, (x.requires_grad_(), y.requires_grad_()))
    assert torch.autograd.gradgradcheck(value, (x, y))
