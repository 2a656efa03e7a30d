"""Detect `vmap`, under which some of torch's operations are missing or wrong."""

from __future__ import annotations

import torch
from torch import Tensor


def is_batched(x: Tensor) -> bool:
    """Whether a tensor has a `vmap` dimension at any level of nested functorch transforms."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False
