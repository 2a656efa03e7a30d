"""Estimators: how the outer signal is computed from adapted tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from distmeta.config.base import Frozen
from distmeta.config.python import PythonEstimator


class BackpropConfig(Frozen):
    """Outer gradient of the query loss by differentiation through adaptation.

    Attributes:
        order: 2 is the exact gradient; 1 treats inner gradients as constants (FOMAML).
    """

    kind: Literal["backprop"] = "backprop"
    order: Literal[1, 2] = 2

    needs_steps: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """Whether the outer gradient goes through the inner gradients."""
        return self.order == 2


class DisplacementConfig(Frozen):
    """Outer signal `meta - fast` (Reptile, Nichol et al. 2018)."""

    kind: Literal["displacement"] = "displacement"

    needs_steps: ClassVar[bool] = True
    is_exact: ClassVar[bool] = False


EstimatorConfig = Annotated[
    Annotated[BackpropConfig | DisplacementConfig | PythonEstimator, Field(discriminator="kind")],
    BeforeValidator(PythonEstimator.of),
]
