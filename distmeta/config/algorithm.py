"""Methods: how one task is adapted (learner), and how the outer signal is computed from adapted tasks (estimator)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, PositiveCount, Text


class Phase(Frozen):
    """Consecutive inner steps with the same settings.

    Attributes:
        groups: Parameter groups of the backbone that the steps move (`all`, `body`, `head`, `norm`, `block1`, ...).
        steps: Inner steps.
        lr: Inner learning rate.
        optimizer: Inner optimizer.
        beta1: Decay of the inner Adam's first moment (Reptile uses 0).
        beta2: Decay of its second moment.
        batch: Support examples per step; steps cycle through the (shuffled) support set. None takes all examples.
        objective: Name of the inner loss; None takes the objective of the tasks.
        l2sp: Weight of `0.5 * |fast - meta|^2` added to the inner loss (L2-SP, Li et al. 2018; iMAML's proximal term).
    """

    groups: tuple[Text, ...] = Field(("all",), max_length=1000)
    steps: InnerSteps = 1
    lr: PositiveFloat = 0.4
    optimizer: Literal["sgd", "adam"] = "sgd"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    batch: PositiveCount | None = None
    objective: Text | None = None
    l2sp: NonNegativeFloat = 0.0


class GradientConfig(Frozen):
    """Adapt by gradient steps on the support set.

    Attributes:
        phases: Phases of inner steps, in order.
        eval_phases: Phases at evaluation, if they differ (Reptile takes more steps there).
        learned_lr: Inner rates are meta-parameters, one for each parameter entry (Meta-SGD, Li et al. 2017).
        head: The last layer starts from the meta-parameters (`meta`), or from zeros (`fresh`: fine-tuning after joint
            training).
    """

    kind: Literal["gradient"] = "gradient"
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1, max_length=1000)
    eval_phases: tuple[Phase, ...] | None = Field(None, max_length=1000)
    learned_lr: bool = False
    head: Literal["meta", "fresh"] = "meta"


class PrototypeConfig(Frozen):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017)."""

    kind: Literal["prototype"] = "prototype"


LearnerConfig = Annotated[GradientConfig | PrototypeConfig, Field(discriminator="kind")]


class BackpropConfig(Frozen):
    """Outer gradient of the query loss by differentiation through adaptation.

    Attributes:
        order: 2 is the exact gradient; 1 treats inner gradients as constants (FOMAML).
    """

    kind: Literal["backprop"] = "backprop"
    order: Literal[1, 2] = 2


class DisplacementConfig(Frozen):
    """Outer signal `meta - fast` (Reptile, Nichol et al. 2018)."""

    kind: Literal["displacement"] = "displacement"


EstimatorConfig = Annotated[BackpropConfig | DisplacementConfig, Field(discriminator="kind")]


class AlgorithmConfig(Frozen):
    """A method: a learner and an estimator. The presets in `distmeta.methods` have the papers' settings.

    Attributes:
        method: The method's name in reports.
    """

    method: Text = "maml"
    learner: LearnerConfig = GradientConfig()
    estimator: EstimatorConfig = BackpropConfig()
