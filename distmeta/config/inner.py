"""Meta-parameters that act on the inner problem: what inner steps minimise, and how far they go."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.black_box import Layers, Width
from distmeta.config.bounds import Text


class HyperparametersConfig(Frozen):
    """Learned rates and strengths of L2-SP, a positive number for each parameter group.

    Attributes:
        groups: Parameter groups that have numbers of their own; of two that share a parameter, the later one counts.
        lr: Whether rates are learned: as factors of the phases' own rates, 1 at first.
        l2sp: First weight of `0.5 * |fast - start|^2` in the inner loss; None leaves it out.
    """

    kind: Literal["hyperparameters"] = "hyperparameters"
    groups: tuple[Text, ...] = Field(("all",), min_length=1, max_length=1000)
    lr: bool = True
    l2sp: PositiveFloat | None = None

    acts_on_examples: ClassVar[bool] = False


class InnerLossConfig(Frozen):
    """A learned inner loss: a small network on each output and its target (ML3, Bechtle et al. 2021).

    Attributes:
        width: Numbers in its hidden layers.
        layers: Hidden layers.
        added: Whether it is added to the objective of the phase, or takes its place.
    """

    kind: Literal["loss"] = "loss"
    width: Width = 40
    layers: Layers = 2
    added: bool = False

    acts_on_examples: ClassVar[bool] = True


class ExampleWeightsConfig(Frozen):
    """Learned weights of examples in the inner loss: a small network on the loss of each (Meta-Weight-Net, Shu et al.
    2019).

    Attributes:
        width: Numbers in its hidden layer.
    """

    kind: Literal["weights"] = "weights"
    width: Width = 100

    acts_on_examples: ClassVar[bool] = True


InnerPart = Annotated[HyperparametersConfig | InnerLossConfig | ExampleWeightsConfig, Field(discriminator="kind")]
