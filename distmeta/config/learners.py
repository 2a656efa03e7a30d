"""Learners: how one task is adapted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, Text
from distmeta.config.gradient import GradientConfig
from distmeta.config.python import ObjectiveName, PythonLearner


class PrototypeConfig(Frozen):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017).

    Attributes:
        scale: Factor of the squared distances (an inverse temperature, for features of length 1).
    """

    kind: Literal["prototype"] = "prototype"
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = True
    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_rates: ClassVar[bool] = False
    proximal: ClassVar[float | None] = None
    num_steps: ClassVar[int] = 0
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = (("", "head", "support"),)

    def with_steps(self, steps: int) -> PrototypeConfig:
        """The same: there are no inner steps."""
        return self


class NewtonConfig(Frozen):
    """Solve the proximal inner problem by Newton-CG steps, then take one gradient step (iMAML's Hessian-free variant).

    Attributes:
        proximal: Weight of `0.5 * |fast - meta|^2` in the inner loss.
        groups: Parameter groups of the backbone that the steps move.
        steps: Newton steps.
        cg_steps: Iterations of conjugate gradient for the direction of each.
        cg_tolerance: Relative residual at which they stop.
        step_sizes: Number of step sizes that are tried along a direction: 1, 1/2, 1/4, ... The best one is taken.
        lr: Rate of the gradient step.
        role: Role of the task's examples that the steps use.
        head: Head of the network that they go through.
        objective: Name of the inner loss; None takes the objective of the tasks.
    """

    kind: Literal["newton_cg"] = "newton_cg"
    proximal: PositiveFloat = 2.0
    groups: tuple[Text, ...] = Field(("all",), max_length=1000)
    steps: InnerSteps = 3
    cg_steps: int = Field(5, ge=1, le=1000)
    cg_tolerance: float = Field(1e-5, ge=0.0, lt=1.0)
    step_sizes: int = Field(6, ge=1, le=50)
    lr: PositiveFloat = 0.1
    role: Text = "support"
    head: Text = "head"
    objective: ObjectiveName | None = None

    needs_classes: ClassVar[bool] = False
    is_stepwise: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = True
    learns_rates: ClassVar[bool] = False

    @property
    def num_steps(self) -> int:
        return self.steps + 1

    @property
    def uses(self) -> tuple[tuple[str, str, str], ...]:
        """The head that adaptation uses."""
        return (("", self.head, self.role),)

    def with_steps(self, steps: int) -> NewtonConfig:
        """The same with another number of Newton steps."""
        return self.model_copy(update={"steps": steps})


LearnerConfig = Annotated[
    Annotated[GradientConfig | NewtonConfig | PrototypeConfig | PythonLearner, Field(discriminator="kind")],
    BeforeValidator(PythonLearner.of),
]
