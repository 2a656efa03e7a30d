"""Agreement of an outer gradient with a reference in float64, as relative errors.

A tensor whose true gradient is zero (a convolution's bias before batch norm) has no relative error: such tensors are
called *silent*, and their error is relative to the norm of the whole reference. After an inner Adam, which divides
rounding errors by themselves, silent tensors are meaningless and left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from distmeta.core.tensors import global_norm
from distmeta.core.types import Params

TOLERANCE = 1e-2
SILENT = 1e-6
# The error of tensors below this share of the whole gradient is relative to it: rounding is in proportion to the whole.
_FLOOR = 1e-4


@dataclass(frozen=True)
class Agreement:
    """Errors of a gradient.

    Attributes:
        error: Relative error of all entries together, silent tensors left out.
        worst: Name of the tensor with the largest relative error.
        worst_error: That error.
        silent_error: Error of the silent tensors relative to the whole reference; None if left out.
    """

    error: float
    worst: str
    worst_error: float
    silent_error: float | None

    @property
    def holds(self) -> bool:
        """Whether the errors are within the tolerance; a gradient that is not finite never agrees."""
        return self.error <= TOLERANCE and (self.silent_error is None or self.silent_error <= TOLERANCE)


def compare(gradient: Params, reference: Params, *, with_silent: bool = True) -> Agreement:
    """Compare a gradient with the reference, a gradient in float64; `with_silent` includes silent tensors."""
    assert gradient.keys() == reference.keys(), "gradients carry the names of the meta-parameters"
    whole = global_norm(reference)
    difference = {name: gradient[name].detach().double() - reference[name].double() for name in reference}
    silent = {name for name, tensor in reference.items() if _norm(tensor) <= SILENT * whole}
    loud = {name: tensor for name, tensor in difference.items() if name not in silent}
    errors = {
        name: _norm(tensor) / max(_norm(reference[name]), _FLOOR * whole, 1e-300) for name, tensor in loud.items()
    }
    worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    return Agreement(
        error=global_norm(loud) / whole,
        worst=worst,
        worst_error=errors[worst],
        silent_error=global_norm({name: difference[name] for name in silent}) / whole if with_silent else None,
    )


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())
