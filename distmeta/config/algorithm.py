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
        beta1, beta2: Moments of the inner Adam (Reptile uses beta1 = 0).
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
    """A method: learner x estimator. `method` is its name in reports; `distmeta.methods` has the papers' settings."""

    method: str = "maml"
    learner: LearnerConfig = GradientConfig()
    estimator: EstimatorConfig = BackpropConfig()


class OuterConfig(Frozen):
    """The outer (server) step.

    Attributes:
        optimizer: Any optimizer of `torch.optim`, by its class name.
        lr: Outer learning rate.
        options: Further arguments of the optimizer, e.g. `{"betas": [0.9, 0.99]}`.
        schedule: Course of the rate over `train.steps`: to `final_lr_fraction * lr` along a line or a half cosine.
        warmup_steps: Steps over which the rate rises linearly from 0.
        clip_norm: Largest global norm of the outer gradient; None leaves it as it is.
        average: Decay of an exponential moving average of the meta-parameters, which is then what is evaluated and
            exported; 0 switches it off (Polyak & Juditsky 1992).
        nonfinite: What to do about a shard whose update has an entry that is infinite or not a number, on two workers:
            end the run (`abort`), or leave the shard out of its step and count it (`drop`).
        staleness: None: every step waits for all its shards (synchronous, exact). A number s: workers never wait; a
            step takes updates that were computed at most s versions ago, and drops older ones (asynchronous).
        staleness_weight: Weight of an update that is t versions old: 1 / (1 + t) (`inverse`), or 1 (`constant`).
        compression: How updates travel to the server: as they are, rounded to `bf16`, or to `int8` in blocks with a
            scale each. What rounding loses is added to the same worker's next update (error feedback), so results
            depend on who computes what.
        parts: Processes that the parameters, their averages and the optimizer's state are shared out over, by tensor;
            1 keeps them in the driver. The bits are the same.
    """

    optimizer: str = "Adam"
    lr: PositiveFloat = 1e-3
    options: dict[str, bool | int | float | tuple[float, ...]] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr_fraction: float = Field(0.0, ge=0.0, le=1.0)
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None
    average: float = Field(0.0, ge=0.0, lt=1.0)
    nonfinite: Literal["abort", "drop"] = "abort"
    staleness: NonNegativeInt | None = None
    staleness_weight: Literal["inverse", "constant"] = "inverse"
    compression: Literal["none", "bf16", "int8"] = "none"
    parts: PositiveInt = 1
