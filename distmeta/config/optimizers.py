"""Learned optimizers: an update rule that is learned trains the network on each task, from a start of its own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, PositiveCount, Text
from distmeta.config.python import ObjectiveName

Width = Annotated[int, Field(gt=0, le=4096)]
Layers = Annotated[int, Field(gt=0, le=32)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class LstmRuleConfig(Frozen):
    """An LSTM for every parameter entry, all with the same weights, that reads its gradient (Andrychowicz et al. 2016).

    Attributes:
        width: Numbers in the hidden state of a layer.
        layers: Layers.
        scale: Factor of the outputs, which are added to the parameters.
        preprocess: p: the logarithm of gradients is divided by it, and those below `exp(-p)` are read as they are.
    """

    kind: Literal["lstm"] = "lstm"
    width: Width = 20
    layers: Layers = 2
    scale: PositiveFloat = 0.1
    preprocess: PositiveFloat = 10.0


class MlpRuleConfig(Frozen):
    """A small MLP for every parameter entry, which reads its gradient, momenta and value (Metz et al. 2022).

    Attributes:
        width: Numbers in a hidden layer.
        layers: Hidden layers.
        decays: Decays of the momenta.
        second_decay: Decay of the squared gradients.
        scale: Factor of the updates.
        exponent: Factor of the logarithm of their size.
        nominal: Weight of Adam's direction, with the first of `decays`, that the MLP's is added to (Harrison et al.
            2022); 0: the MLP alone.
    """

    kind: Literal["mlp"] = "mlp"
    width: Width = 16
    layers: Layers = 2
    decays: tuple[Decay, ...] = Field((0.9, 0.99, 0.999), min_length=1, max_length=20)
    second_decay: Decay = 0.999
    scale: PositiveFloat = 0.001
    exponent: PositiveFloat = 0.001
    nominal: float = Field(0.0, ge=0.0, le=1e6)


class AdamRuleConfig(Frozen):
    """Adam (Kingma & Ba 2015), whose rate alone is learned.

    Attributes:
        lr: Its rate before training.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        schedule: Whether the rate falls to 0 along half a cosine within the steps.
    """

    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    schedule: Literal["constant", "cosine"] = "constant"


RuleConfig = Annotated[LstmRuleConfig | MlpRuleConfig | AdamRuleConfig, Field(discriminator="kind")]


class LearnedOptimizerConfig(Frozen):
    """Train all parameters of the network by an optimizer. Its parameters are the meta-parameters, and all there are.

    A task starts from initial values that are drawn by its seed, of the sizes of the network's own.

    Attributes:
        rule: The optimizer.
        steps: Inner steps.
        batch: Examples per step; steps cycle through the (shuffled) examples. None takes all of them.
        second_order: Whether outer gradients go through the gradients that the optimizer reads. Without, these count as
            given (Andrychowicz et al. 2016, section 2.1).
        init_scale: Factor of the initial values that are drawn.
        role: Role of the task's examples that the steps use.
        head: Head of the network that they go through.
        objective: Name of the inner loss; None takes the objective of the tasks.
    """

    kind: Literal["learned_optimizer"] = "learned_optimizer"
    rule: RuleConfig = LstmRuleConfig()
    steps: InnerSteps = 100
    batch: PositiveCount | None = None
    second_order: bool = False
    init_scale: PositiveFloat = 1.0
    role: Text = "support"
    head: Text = "head"
    objective: ObjectiveName | None = None

    needs_classes: ClassVar[bool] = False
    needs_names: ClassVar[bool] = False
    is_stepwise: ClassVar[bool] = True
    keeps_outputs: ClassVar[bool] = False
    learns_inner: ClassVar[bool] = True
    fixes_steps: ClassVar[bool] = False
    proximal: ClassVar[float | None] = None

    @property
    def num_steps(self) -> int:
        return self.steps

    @property
    def uses(self) -> tuple[tuple[str, str, str], ...]:
        """The head that adaptation uses."""
        return (("", self.head, self.role),)

    def with_steps(self, steps: int) -> LearnedOptimizerConfig:
        """The same with another number of steps."""
        return self.model_copy(update={"steps": steps})
