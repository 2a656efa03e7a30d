"""Detection of `vmap` through nested transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from distmeta.models.batched import is_batched


def test_only_tensors_inside_vmap_are_batched() -> None:
    seen: list[bool] = []

    def record(x: Tensor) -> Tensor:
        seen.append(is_batched(x))
        return x.square().sum()

    x = torch.ones(2, 3)
    record(x)
    grad(record)(x)
    vmap(record)(x)
    vmap(grad(record))(x)
    grad(lambda x: vmap(record)(x).sum())(x)
    assert seen == [False, False, True, True, True]
