"""Agreement of an outer gradient with a reference in float64, as relative errors.

A tensor whose true gradient is zero (a convolution's bias before batch norm) has no relative error: such tensors are
called *silent*, and their error is relative to the norm of the whole reference. After an inner Adam, which divides
rounding errors by themselves, silent tensors are meaningless and left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class ByTask:
    """Errors of the gradients of single tasks. One task at the kink of a ReLU decides the error of a sum of many: for
    any contender, rounding decides there about thousands of equal pixels at once.

    Attributes:
        median: The median relative error.
        over: Number of tasks whose error is over 1e-3.
        tasks: Number of tasks.
        worst: The largest error.
        silent: The median error of the silent tensors, as `Agreement.silent_error`; None if left out.
    """

    median: float
    over: int
    tasks: int
    worst: float
    silent: float | None

    @property
    def holds(self) -> bool:
        """Whether the median errors are within the tolerance."""
        return self.median <= TOLERANCE and (self.silent is None or self.silent <= TOLERANCE)


def by_task(agreements: Sequence[Agreement]) -> ByTask:
    """Errors of tasks, one by one; an error that is no number is the largest."""
    errors = sorted(math.inf if math.isnan(each.error) else each.error for each in agreements)
    silent = sorted(each.silent_error for each in agreements if each.silent_error is not None)
    return ByTask(
        median=errors[len(errors) // 2],
        over=sum(error > 1e-3 for error in errors),
        tasks=len(errors),
        worst=errors[-1],
        silent=silent[len(silent) // 2] if silent else None,
    )


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
