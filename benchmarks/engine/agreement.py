"""Do two outer signals agree? Errors relative to a reference in float64.

A tensor whose true signal is zero (a convolution's bias before batch norm) has no relative error: such tensors are
*silent*, and their size is measured against the whole reference. Where Adam divides rounding by rounding (Reptile),
what it makes of a silent tensor has no meaning and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distmeta.core.tensors import global_norm
from distmeta.core.types import Params

TOLERANCE = 1e-2
SILENT = 1e-6
# Tensors below this share of the whole signal are measured against it: rounding is in proportion to the whole.
_FLOOR = 1e-4


@dataclass(frozen=True)
class Agreement:
    """How far a signal is from the reference.

    Attributes:
        error: Relative error of all entries together, silent tensors left out.
        worst: Name of the tensor with the largest relative error.
        worst_error: That error.
        silent_error: Size of the silent tensors' difference, relative to the whole reference; None if left out.
    """

    error: float
    worst: str
    worst_error: float
    silent_error: float | None

    @property
    def holds(self) -> bool:
        """True within the tolerance; a signal that is not finite never is."""
        return self.error <= TOLERANCE and (self.silent_error is None or self.silent_error <= TOLERANCE)


def compare(found: Params, reference: Params, *, with_silent: bool = True) -> Agreement:
    """Compare a signal with its reference.

    Args:
        found: The signal.
        reference: The true one, in float64.
        with_silent: Judge silent tensors, too.

    Returns:
        The errors.
    """
    assert found.keys() == reference.keys(), "a contender names its gradients as the meta-parameters"
    whole = global_norm(reference)
    difference = {name: found[name].detach().double() - reference[name].double() for name in reference}
    silent = {name for name, tensor in reference.items() if _norm(tensor) <= SILENT * whole}
    loud = {name: tensor for name, tensor in difference.items() if name not in silent}
    errors = {
        name: _norm(tensor) / max(_norm(reference[name]), _FLOOR * whole, 1e-300) for name, tensor in loud.items()
    }
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return Agreement(
        error=global_norm(loud) / whole,
        worst=worst,
        worst_error=errors[worst],
        silent_error=global_norm({name: difference[name] for name in silent}) / whole if with_silent else None,
    )


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())
