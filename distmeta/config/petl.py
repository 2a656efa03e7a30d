"""Parameter-efficient parts of a large network (PETL): what is added to frozen layers, and where.

Targets are linear layers, named by what they do (`query`, `key`, `value`, `fused`, `output`, `ffn_in`, `ffn_out`: see
`distmeta.models.petl.families`), or by the end of their name in the network (`attention.output.dense`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat
from typing_extensions import override

from distmeta.config.base import Frozen
from distmeta.config.bounds import Text

Rank = Annotated[int, Field(gt=0, le=4096)]
Targets = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]
Layers = Annotated[tuple[Annotated[int, Field(ge=0, le=100_000)], ...], Field(min_length=1, max_length=100_000)]


class _Part(Frozen):
    """What is common to all kinds."""

    def parts(self) -> tuple[Any, ...]:
        """The kinds that it is made of: by default, itself."""
        return (self,)

    @property
    def num_positions(self) -> int:
        """Positions that it takes before a text: those of a prefix that shares the softmax of the text."""
        return 0


class LoraConfig(_Part):
    """`y + alpha / rank * B A x` (Hu et al. 2021, arXiv 2106.09685). B starts at zero.

    Attributes:
        rank: Rows of A, columns of B.
        alpha: Scale, divided by the rank.
        targets: Linear layers.
        layers: Numbers of the blocks that have it, from 0; None for all.
    """

    kind: Literal["lora"] = "lora"
    rank: Rank = 8
    alpha: PositiveFloat = 16.0
    targets: Targets = ("query", "value")
    layers: Layers | None = None


class AdapterConfig(_Part):
    """A bottleneck `scale * up(f(down(x)))` beside or behind a part of each block. `up` starts at zero.

    Attributes:
        form: Behind the part's last layer, before the residual sum (`sequential`: Houlsby et al. 2019, arXiv
            1902.00751), or from the part's input to its output (`parallel`: He et al. 2022, arXiv 2110.04366).
        at: Parts of a block.
        width: Width of the bottleneck.
        scale: Factor of the output (He et al.: 4 for parallel ones).
        activation: f.
        layers: Numbers of the blocks that have it, from 0; None for all.
    """

    kind: Literal["adapter"] = "adapter"
    form: Literal["sequential", "parallel"] = "sequential"
    at: tuple[Literal["attention", "ffn"], ...] = Field(("attention", "ffn"), min_length=1, max_length=2)
    width: Rank = 32
    scale: PositiveFloat = 1.0
    activation: Literal["relu", "gelu"] = "relu"
    layers: Layers | None = None


class PrefixConfig(_Part):
    """Further keys and values for the attention of each block (Li & Liang 2021, arXiv 2101.00190).

    Attributes:
        length: Number of keys.
        gate: Weight the attention to the prefix by tanh of a parameter for each head, which starts at zero, and add it
            to the attention to the text (Zhang et al. 2023, arXiv 2303.16199): the network starts as it was. Without,
            text and prefix share one softmax, as in the paper and in the package peft.
        hidden: Width of the network that makes keys and values from an embedding of each position
            (reparametrisation); None makes them parameters.
        layers: Numbers of the blocks that have it, from 0; None for all.
    """

    kind: Literal["prefix"] = "prefix"
    length: Rank = 8
    gate: bool = True
    hidden: Rank | None = None
    layers: Layers | None = None

    @property
    @override
    def num_positions(self) -> int:
        return 0 if self.gate else self.length


class MamConfig(_Part):
    """Prefix in the attention and a scaled parallel adapter beside the feed-forward part (He et al. 2022).

    Attributes:
        length: Number of keys of the prefix.
        gate: See `PrefixConfig`.
        width: Width of the adapter's bottleneck.
        scale: Factor of its output.
    """

    kind: Literal["mam"] = "mam"
    length: Rank = 8
    gate: bool = True
    width: Rank = 32
    scale: PositiveFloat = 4.0

    @override
    def parts(self) -> tuple[Any, ...]:
        adapter = AdapterConfig(form="parallel", at=("ffn",), width=self.width, scale=self.scale)
        return PrefixConfig(length=self.length, gate=self.gate), adapter

    @property
    @override
    def num_positions(self) -> int:
        return 0 if self.gate else self.length


class Ia3Config(_Part):
    """Factors of keys, values and the feed-forward part's hidden units (Liu et al. 2022, arXiv 2205.05638).

    Attributes:
        targets: Linear layers whose outputs are multiplied.
        inputs: Linear layers whose inputs are multiplied.
        layers: Numbers of the blocks that have them, from 0; None for all.
    """

    kind: Literal["ia3"] = "ia3"
    targets: Targets = ("key", "value")
    inputs: Annotated[tuple[Text, ...], Field(max_length=1000)] = ("ffn_out",)
    layers: Layers | None = None


class BitFitConfig(_Part):
    """The network's own biases (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    kind: Literal["bitfit"] = "bitfit"


class FullConfig(_Part):
    """All of the network's own weights: the upper end of the comparison."""

    kind: Literal["full"] = "full"


PetlPart = Annotated[
    LoraConfig | AdapterConfig | PrefixConfig | MamConfig | Ia3Config | BitFitConfig | FullConfig,
    Field(discriminator="kind"),
]
