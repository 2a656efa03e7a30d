"""Learners: how one task is adapted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.black_box import InContextConfig, LstmConfig, NeuralProcessConfig
from distmeta.config.bounds import InnerSteps, PositiveCount, Text
from distmeta.config.closed_form import ClosedFormConfig
from distmeta.config.gradient import GradientConfig
from distmeta.config.optimizers import LearnedOptimizerConfig
from distmeta.config.prediction import FilmConfig, GeneratorConfig
from distmeta.config.python import ObjectiveName, PythonLearner


class PrototypeConfig(ClosedFormConfig):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017).

    Attributes:
        scale: Factor of the squared distances (an inverse temperature, for features of length 1).
    """

    kind: Literal["prototype"] = "prototype"
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = True


class NeighbourConfig(ClosedFormConfig):
    """Classify by the labels of support examples, weighted by `exp(scale * similarity)` of their features.

    Attributes:
        similarity: Cosine (matching networks, Vinyals et al. 2016), or negative squared distance.
        scale: Factor of the similarity (an inverse temperature).
        neighbours: Number of nearest support examples that count; None: all.
        context_steps: Reading steps of full-context embeddings (Vinyals et al. 2016, section 2.1.2), which have
            parameters of their own; 0: the features as they are.
    """

    kind: Literal["neighbours"] = "neighbours"
    similarity: Literal["cosine", "euclidean"] = "cosine"
    scale: PositiveFloat = 1.0
    neighbours: PositiveCount | None = None
    context_steps: int = Field(0, ge=0, le=100)

    needs_classes: ClassVar[bool] = True


class RidgeConfig(ClosedFormConfig):
    """Fit a linear head by ridge regression in closed form (Bertinetto et al. 2019), to labels or to numbers.

    Attributes:
        regularisation: Weight of the squared norm of the head.
        scale: Factor of the head's outputs.
        learned: The logarithm of `regularisation`, `scale` and a bias are meta-parameters, which start from these
            values and from 0. Otherwise they are fixed, so that evaluation may use them with any trained body.
        intercept: A 1 is appended to the features.
    """

    kind: Literal["ridge"] = "ridge"
    regularisation: PositiveFloat = 1.0
    scale: PositiveFloat = 1.0
    learned: bool = True
    intercept: bool = True

    needs_classes: ClassVar[bool] = False


class StatisticsConfig(ClosedFormConfig):
    """Take the statistics of batch norm from unlabelled examples (Nado et al. 2020; Schneider et al. 2020).

    Attributes:
        share: Weight of their statistics; the rest is that of the running ones of training.
        role: Role of the examples.
    """

    kind: Literal["statistics"] = "statistics"
    share: float = Field(1.0, ge=0.0, le=1.0)
    role: Text = "unlabelled"

    needs_classes: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = True
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = ()


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
    needs_names: ClassVar[bool] = False
    is_stepwise: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = True
    learns_inner: ClassVar[bool] = False
    fixes_steps: ClassVar[bool] = False

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
    Annotated[
        GradientConfig
        | NewtonConfig
        | PrototypeConfig
        | NeighbourConfig
        | RidgeConfig
        | StatisticsConfig
        | LstmConfig
        | NeuralProcessConfig
        | InContextConfig
        | GeneratorConfig
        | FilmConfig
        | LearnedOptimizerConfig
        | PythonLearner,
        Field(discriminator="kind"),
    ],
    BeforeValidator(PythonLearner.of),
]
