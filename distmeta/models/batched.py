"""Whether code runs under `vmap`: some of torch's operations are missing, or wrong, there."""

from __future__ import annotations

import torch
from torch import Tensor


def is_batched(x: Tensor) -> bool:
    """True for a tensor inside `vmap`, at any depth of transforms."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False
