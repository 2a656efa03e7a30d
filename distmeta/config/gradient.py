"""Gradient steps on the support set: phases, and the learner made of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, PositiveCount, Text
from distmeta.config.inner import InnerPart
from distmeta.config.python import ObjectiveName

LearnedRates = Annotated[
    Literal[False, "entry", "layer", "layer_step"], BeforeValidator(lambda value: "entry" if value is True else value)
]


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
        momentum: Momentum of sgd (heavy ball).
        weight_decay: Factor of the parameters that is added to the gradient, for either optimizer.
        block_decay: Factor of the rate from one block of the network to the one before it: `lr` is that of the head,
            `lr * block_decay` that of the last block (layer-wise rates, Howard & Ruder 2018). `rates` take precedence.
        auto_rgn: Whether each layer's rate is multiplied by its gradient norm over its weight norm, relative to the
            largest of all layers, at the first step of each epoch (Auto-RGN, Lee et al. 2023).
        batch: Examples per step; steps cycle through the (shuffled) examples. None takes all of them.
        shuffle: Whether mini-batches go through the examples in a new random order in each epoch.
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
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    weight_decay: NonNegativeFloat = 0.0
    block_decay: float = Field(1.0, gt=0.0, le=1.0)
    auto_rgn: bool = False
    batch: PositiveCount | None = None
    shuffle: bool = False
    objective: ObjectiveName | None = None
    l2sp: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum {self.momentum} is that of sgd; allowed: 0 with 'adam', which has beta1")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether its steps are `lr` times the gradient on all examples."""
        same_rates = self.block_decay == 1 and not self.auto_rgn and all(r == self.lr for r in self.rates.values())
        plain = self.optimizer == "sgd" and not self.momentum and not self.weight_decay
        return same_rates and plain and self.batch is None


class GradientConfig(Frozen):
    """Adapt by gradient steps on the support set.

    Attributes:
        phases: Phases of inner steps, in order.
        learned_lr: Inner rates are meta-parameters: one for each parameter entry (`entry`: Meta-SGD, Li et al. 2017;
            `true` means the same), each parameter tensor (`layer`), or each parameter tensor and inner step
            (`layer_step`: MAML++, Antoniou et al. 2019).
        head: The last layer starts from the meta-parameters (`meta`), from zeros (`fresh`: fine-tuning after joint
            training), from the meta-parameters but for the rows of the classes among the examples of the phases, which
            are zeros (`reset`: OML, Javed & White 2019), such that it classifies by distance to the class means of the
            support set's features (`prototypes`: Proto-MAML, Triantafillou et al. 2020, section 4), or such that it
            gives the mean log-probability of the words of a class's name as the next word of a decoder (`label_words`:
            Schick & Schuetze 2021, Brown et al. 2020).
        scale: Factor of the squared distances to class means, or of the log-probabilities.
        frozen: Parameter groups of the backbone that no phase moves, whatever its `groups` say.
        zeros: Parameter groups that start from zeros for each task, and are not meta-learned (the context parameters of
            CAVIA, Zintgraf et al. 2019).
        per_step: Parameter groups that have values of their own for each number of inner steps, which the outer loss
            moves and inner steps do not (`norm`: the scales and shifts of MAML++). Training and evaluation take as many
            steps.
        inner: Meta-parameters that act on the inner problem: hyperparameters, a loss, weights of examples.
    """

    kind: Literal["gradient"] = "gradient"
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1, max_length=1000)
    learned_lr: LearnedRates = False
    head: Literal["meta", "fresh", "reset", "prototypes", "label_words"] = "meta"
    scale: PositiveFloat = 1.0
    frozen: tuple[Text, ...] = Field((), max_length=1000)
    zeros: tuple[Text, ...] = Field((), max_length=1000)
    per_step: tuple[Text, ...] = Field((), max_length=1000)
    inner: tuple[InnerPart, ...] = Field((), max_length=3)

    is_stepwise: ClassVar[bool] = True

    @field_validator("inner")
    @classmethod
    def _inner_kinds_differ(cls, inner: tuple[InnerPart, ...]) -> tuple[InnerPart, ...]:
        kinds = [part.kind for part in inner]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"kind '{kind}' occurs {kinds.count(kind)} times; allowed: once")
        return inner

    @property
    def needs_classes(self) -> bool:
        """Whether the tasks must be classification."""
        return self.head in ("reset", "prototypes", "label_words")

    @property
    def needs_names(self) -> bool:
        """Whether the classes of tasks must have names (role `labels`)."""
        return self.head == "label_words"

    @property
    def keeps_outputs(self) -> bool:
        """Whether tasks must have as many outputs at evaluation as in training."""
        return self.head == "meta"

    @property
    def learns_inner(self) -> bool:
        """Whether some meta-parameters act through inner gradients alone."""
        return bool(self.learned_lr or self.per_step or self.inner)

    @property
    def fixes_steps(self) -> bool:
        """Whether evaluation must take as many inner steps as training."""
        return self.learned_lr == "layer_step" or bool(self.per_step)

    @property
    def proximal(self) -> float | None:
        """Weight of the proximal term of the one problem that all inner steps solve; None if they do not."""
        phase, *others = self.phases
        plain = phase.steps > 0 and phase.is_plain and not self.learned_lr
        from_meta = self.head == "meta" and not (self.zeros or self.per_step or self.inner)
        return phase.l2sp if phase.l2sp and plain and not others and from_meta else None

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
