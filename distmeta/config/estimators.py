"""Estimators: how the outer signal is computed from adapted tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import NonNegativeCount
from distmeta.config.python import PythonEstimator


class BackpropConfig(Frozen):
    """Outer gradient of the query loss by differentiation through adaptation.

    Attributes:
        order: 2 is the exact gradient; 1 treats inner gradients as constants (FOMAML).
        first_order_until: Outer step before which order 2 is order 1 (MAML++, Antoniou et al. 2019: order annealing).
            Learned rates do not move before it.
        each_until: Outer step by which the terms at `each` inner step are scored after the last one alone (MAML++:
            multi-step loss). Their weight is divided equally among the inner steps at first, and moves linearly to the
            last one. None: every inner step has the whole weight, always.
    """

    kind: Literal["backprop"] = "backprop"
    order: Literal[1, 2] = 2
    first_order_until: NonNegativeCount = 0
    each_until: NonNegativeCount | None = None

    needs_steps: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """Whether the outer gradient goes through the inner gradients."""
        return self.order == 2

    @property
    def weighs_each(self) -> bool:
        """Whether it sets the weights of terms at `each` inner step."""
        return self.each_until is not None

    @model_validator(mode="after")
    def _order_changes(self) -> Self:
        if self.first_order_until and self.order == 1:
            raise ValueError(
                f"first_order_until {self.first_order_until} goes over to order 2, but order is 1; use order 2, or 0"
            )
        return self


class DisplacementConfig(Frozen):
    """Outer signal `meta - fast` (Reptile, Nichol et al. 2018)."""

    kind: Literal["displacement"] = "displacement"

    needs_steps: ClassVar[bool] = True
    is_exact: ClassVar[bool] = False
    weighs_each: ClassVar[bool] = False


EstimatorConfig = Annotated[
    Annotated[BackpropConfig | DisplacementConfig | PythonEstimator, Field(discriminator="kind")],
    BeforeValidator(PythonEstimator.of),
]
