"""Estimators: how the outer signal is computed from adapted tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import NonNegativeCount, PositiveCount
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
        window: Inner steps of one outer step (truncated backpropagation): a training task lasts as many outer steps as
            it has windows, each of which goes on from where the one before ended. None: all inner steps.
    """

    kind: Literal["backprop"] = "backprop"
    order: Literal[1, 2] = 2
    first_order_until: NonNegativeCount = 0
    each_until: NonNegativeCount | None = None
    window: PositiveCount | None = None

    needs_steps: ClassVar[bool] = False
    needs_proximal: ClassVar[bool] = False

    @property
    def is_exact(self) -> bool:
        """Whether the outer gradient goes through the inner gradients."""
        return self.order == 2

    @property
    def reaches_steps(self) -> bool:
        """Whether meta-parameters that act through inner steps alone get a signal."""
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
        if self.window is not None and (self.order == 1 or self.first_order_until or self.each_until is not None):
            raise ValueError(
                f"window {self.window} needs order 2, first_order_until 0 and each_until null, or it must be null"
            )
        return self


class DisplacementConfig(Frozen):
    """Outer signal `meta - fast` (Reptile, Nichol et al. 2018)."""

    kind: Literal["displacement"] = "displacement"

    needs_steps: ClassVar[bool] = True
    needs_proximal: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    reaches_steps: ClassVar[bool] = False
    weighs_each: ClassVar[bool] = False
    window: ClassVar[int | None] = None


class ImplicitConfig(Frozen):
    """Implicit gradient at the solution of a proximal inner problem (iMAML, Rajeswaran et al. 2019).

    Attributes:
        steps: Iterations of conjugate gradient; each is a product with the Hessian of the inner loss.
        tolerance: Residual, relative to the task's query gradient, at which a task's iterations stop.
        damping: Added to the matrix `I + Hessian / l2sp` as a multiple of `I`; 0 is the exact implicit gradient.
    """

    kind: Literal["implicit"] = "implicit"
    steps: int = Field(5, ge=1, le=1000)
    tolerance: float = Field(1e-5, ge=0.0, lt=1.0)
    damping: float = Field(0.0, ge=0.0, le=1e6)

    needs_steps: ClassVar[bool] = True
    needs_proximal: ClassVar[bool] = True
    is_exact: ClassVar[bool] = True
    reaches_steps: ClassVar[bool] = True
    weighs_each: ClassVar[bool] = False
    window: ClassVar[int | None] = None


class EvolutionConfig(Frozen):
    """Outer gradient by antithetic evolution: differences of the outer loss between perturbed meta-parameters.

    Each task has a pair of perturbations of its own. The outer loss is smoothed by them, and no derivative is taken.

    Attributes:
        std: Standard deviation of the perturbations.
        window: Inner steps of one outer step: a training task lasts as many outer steps as it has windows, each of
            which goes on from where the one before ended. None: all inner steps (full evolution strategies).
        persistent: Whether differences count for the perturbations of all windows so far, so that windows have no bias
            (PES, Vicol et al. 2021). Otherwise each window by itself (truncated ES).
    """

    kind: Literal["evolution"] = "evolution"
    std: PositiveFloat = 0.01
    window: PositiveCount | None = None
    persistent: bool = True

    needs_steps: ClassVar[bool] = False
    needs_proximal: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    reaches_steps: ClassVar[bool] = True
    weighs_each: ClassVar[bool] = False


EstimatorConfig = Annotated[
    Annotated[
        BackpropConfig | DisplacementConfig | ImplicitConfig | EvolutionConfig | PythonEstimator,
        Field(discriminator="kind"),
    ],
    BeforeValidator(PythonEstimator.of),
]
