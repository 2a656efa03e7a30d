"""Methods: how one task is adapted (learner), how the outer signal is computed from adapted tasks (estimator), and what
the outer loss is made of (terms).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, PositiveCount, Text
from distmeta.config.python import PythonEstimator, PythonLearner, PythonObjective

ObjectiveName = Annotated[Text | PythonObjective, BeforeValidator(PythonObjective.of)]
"""An objective by name (`distmeta.methods.objectives`), or one of the user's."""


class Phase(Frozen):
    """Consecutive inner steps with the same settings.

    Attributes:
        groups: Parameter groups of the backbone that the steps move (`all`, `body`, `head`, `norm`, `block1`, ...).
        steps: Inner steps.
        lr: Inner learning rate.
        rates: Rates of single groups, where they differ; of two groups that share a parameter, the later one counts.
        role: Role of the task's examples that the steps use.
        head: Head of the network that they go through.
        optimizer: Inner optimizer.
        beta1: Decay of the inner Adam's first moment (Reptile uses 0).
        beta2: Decay of its second moment.
        batch: Examples per step; steps cycle through the (shuffled) examples. None takes all of them.
        objective: Name of the inner loss; None takes the objective of the tasks.
        l2sp: Weight of `0.5 * |fast - start|^2` added to the inner loss, where `start` is the value before the phase
            (L2-SP, Li et al. 2018; iMAML's proximal term).
    """

    groups: tuple[Text, ...] = Field(("all",), max_length=1000)
    steps: InnerSteps = 1
    lr: PositiveFloat = 0.4
    rates: dict[Text, PositiveFloat] = Field({}, max_length=1000)
    role: Text = "support"
    head: Text = "head"
    optimizer: Literal["sgd", "adam"] = "sgd"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    batch: PositiveCount | None = None
    objective: ObjectiveName | None = None
    l2sp: NonNegativeFloat = 0.0


class GradientConfig(Frozen):
    """Adapt by gradient steps on the support set.

    Attributes:
        phases: Phases of inner steps, in order.
        learned_lr: Inner rates are meta-parameters, one for each parameter entry (Meta-SGD, Li et al. 2017).
        head: The last layer starts from the meta-parameters (`meta`), from zeros (`fresh`: fine-tuning after joint
            training), such that it classifies by distance to the class means of the support set's features
            (`prototypes`: Proto-MAML, Triantafillou et al. 2020, section 4), or such that it gives the mean
            log-probability of the words of a class's name as the next word of a decoder (`label_words`: Schick &
            Schuetze 2021, Brown et al. 2020).
        scale: Factor of the squared distances to class means, or of the log-probabilities.
    """

    kind: Literal["gradient"] = "gradient"
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1, max_length=1000)
    learned_lr: bool = False
    head: Literal["meta", "fresh", "prototypes", "label_words"] = "meta"
    scale: PositiveFloat = 1.0

    is_stepwise: ClassVar[bool] = True

    @property
    def needs_classes(self) -> bool:
        """Whether the tasks must be classification."""
        return self.head in ("prototypes", "label_words")

    @property
    def needs_names(self) -> bool:
        """Whether the classes of tasks must have names (role `labels`)."""
        return self.head == "label_words"

    @property
    def keeps_outputs(self) -> bool:
        """Whether tasks must have as many outputs at evaluation as in training."""
        return self.head == "meta"

    @property
    def learns_rates(self) -> bool:
        """Whether some meta-parameters act through inner gradients alone."""
        return self.learned_lr

    @property
    def uses(self) -> tuple[tuple[str, str, str], ...]:
        """Heads that adaptation uses: field below the learner, head, role of the examples."""
        uses = tuple((f".phases.{i}", phase.head, phase.role) for i, phase in enumerate(self.phases) if phase.steps)
        heads = dict.fromkeys(head for _, head, _ in uses) or ("head",)
        return (*uses, *(("", head, "labels") for head in heads)) if self.needs_names else uses

    @property
    def num_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def with_steps(self, steps: int) -> GradientConfig:
        """The same with another number of steps in its last phase."""
        *before, last = self.phases
        return self.model_copy(update={"phases": (*before, last.model_copy(update={"steps": steps}))})


class PrototypeConfig(Frozen):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017).

    Attributes:
        scale: Factor of the squared distances (an inverse temperature, for features of length 1).
    """

    kind: Literal["prototype"] = "prototype"
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = True
    needs_names: ClassVar[bool] = False
    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_rates: ClassVar[bool] = False
    num_steps: ClassVar[int] = 0
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = (("", "head", "support"),)

    def with_steps(self, steps: int) -> PrototypeConfig:
        """The same: there are no inner steps."""
        return self


LearnerConfig = Annotated[
    Annotated[GradientConfig | PrototypeConfig | PythonLearner, Field(discriminator="kind")],
    BeforeValidator(PythonLearner.of),
]


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


class Term(Frozen):
    """A term of the outer loss.

    Attributes:
        role: Role of the task's examples.
        objective: Name of the loss; None takes the objective of the tasks.
        weight: Weight in the sum of the terms.
        at: Where it is scored: with the adapted state after the last inner step (`last`) or after each one (`each`),
            or with the meta-parameters as they are (`meta`: joint training).
        head: Head of the network that it is scored through.
    """

    role: Text = "query"
    objective: ObjectiveName | None = None
    weight: float = 1.0
    at: Literal["last", "each", "meta"] = "last"
    head: Text = "head"


class EvaluateConfig(Frozen):
    """How tasks are adapted at evaluation, where that differs from training.

    Attributes:
        steps: Inner steps of the last phase (Reptile takes more at evaluation).
        learner: Another learner.
    """

    steps: InnerSteps | None = None
    learner: LearnerConfig | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.steps is not None and self.learner is not None:
            raise ValueError("steps and learner exclude each other: the learner sets its own steps")
        return self


class AlgorithmConfig(Frozen):
    """A method: learner, estimator and terms. The presets in `distmeta.methods` have the papers' settings.

    Attributes:
        method: The method's name in reports.
        learner: How one task is adapted.
        estimator: How the outer signal is computed from adapted tasks.
        terms: What the outer loss is made of.
        evaluate: What differs at evaluation.
    """

    method: Text = "maml"
    learner: LearnerConfig = GradientConfig()
    estimator: EstimatorConfig = BackpropConfig()
    terms: tuple[Term, ...] = Field((Term(),), min_length=1, max_length=100)
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def adapts(self) -> bool:
        """Whether training adapts to tasks at all."""
        return any(term.at != "meta" for term in self.terms)

    def evaluated_learner(self) -> LearnerConfig:
        """The learner of evaluation tasks."""
        if self.evaluate.steps is not None:
            return self.learner.with_steps(self.evaluate.steps)
        return self.evaluate.learner or self.learner

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        learner, estimator = self.learner, self.estimator
        if self.evaluate.steps is not None and not learner.is_stepwise:
            raise ValueError(f"evaluate.steps needs a learner with inner steps, but learner.kind is '{learner.kind}'")
        if estimator.needs_steps and not self.adapts:
            raise ValueError(
                f"terms score the meta-parameters alone (at 'meta'), so there is no adaptation for estimator.kind "
                f"'{estimator.kind}'; use 'backprop'"
            )
        if any(term.at == "each" for term in self.terms) and not learner.num_steps:
            raise ValueError(f"a term at 'each' inner step needs one, but learner.kind '{learner.kind}' takes none")
        if learner.learns_rates and not estimator.is_exact:
            raise ValueError(
                "learner.learned_lr needs the exact gradient, because no other estimator changes the rates; "
                "use estimator.kind 'backprop' with order 2"
            )
        return self
