"""The two axes of a method: how one task is adapted, and how the outer signal is computed from adapted tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distmeta.config.base import Frozen


class Phase(Frozen):
    """One stretch of inner steps.

    Attributes:
        groups: Parameter groups of the backbone that move (`all`, `body`, `head`, `norm`, `block1`, ...).
        steps: Inner steps.
        lr: Inner learning rate.
        optimizer: Inner optimizer.
        beta1: Decay of the inner Adam's first moment (Reptile uses 0).
        beta2: Decay of its second moment.
        batch: Support examples per step, taken in turn from the (shuffled) support set; None takes all of them.
        objective: Name of the inner loss; None takes the tasks' own.
        l2sp: Weight of `0.5 * |fast - meta|^2` added to the inner loss (L2-SP, Li et al. 2018; iMAML's proximal term).
    """

    groups: tuple[str, ...] = ("all",)
    steps: NonNegativeInt = 1
    lr: PositiveFloat = 0.4
    optimizer: Literal["sgd", "adam"] = "sgd"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    batch: PositiveInt | None = None
    objective: str | None = None
    l2sp: NonNegativeFloat = 0.0


class GradientConfig(Frozen):
    """Adapt by gradient steps on the support set.

    Attributes:
        phases: What moves, how far, in which order.
        eval_phases: Phases at evaluation, if they differ (Reptile adapts for longer).
        learned_lr: Inner rates are meta-parameters, one for each parameter entry (Meta-SGD, Li et al. 2017).
        head: The last layer starts from the meta-parameters, or from zeros (`fresh`: fine-tuning after joint training).
    """

    kind: Literal["gradient"] = "gradient"
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1)
    eval_phases: tuple[Phase, ...] | None = None
    learned_lr: bool = False
    head: Literal["meta", "fresh"] = "meta"


class PrototypeConfig(Frozen):
    """Classify by the squared Euclidean distance to class means in feature space (Snell et al. 2017)."""

    kind: Literal["prototype"] = "prototype"


LearnerConfig = Annotated[GradientConfig | PrototypeConfig, Field(discriminator="kind")]


class BackpropConfig(Frozen):
    """Outer gradient of the query loss, through adaptation.

    Attributes:
        order: 2 is exact; 1 treats the inner gradients as constants (FOMAML).
    """

    kind: Literal["backprop"] = "backprop"
    order: Literal[1, 2] = 2


class DisplacementConfig(Frozen):
    """Outer signal `meta - fast` (Reptile, Nichol et al. 2018)."""

    kind: Literal["displacement"] = "displacement"


EstimatorConfig = Annotated[BackpropConfig | DisplacementConfig, Field(discriminator="kind")]


class AlgorithmConfig(Frozen):
    """A method: learner x estimator. The presets in `distmeta.methods` have the papers' settings.

    Attributes:
        method: The method's name in reports.
    """

    method: str = "maml"
    learner: LearnerConfig = GradientConfig()
    estimator: EstimatorConfig = BackpropConfig()
