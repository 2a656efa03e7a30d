"""Which network to adapt. Its input shape and number of outputs come from the tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from distmeta.config.base import Frozen


class MlpConfig(Frozen):
    """Fully connected network with ReLU.

    Attributes:
        hidden: Widths of the hidden layers.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (40, 40)


class Conv4Config(Frozen):
    """Four blocks of 3x3 convolution, batch norm, ReLU (Vinyals et al. 2016).

    Attributes:
        filters: Channels of every block.
        downsample: Strided convolutions (Omniglot in the MAML paper) or 2x2 max pooling.
        norm: Statistics of batch norm: of the batch itself (`batch`: transductive on a query batch), or of the support
            set alone (`support`: inductive; a query example's prediction never depends on the other queries).
    """

    kind: Literal["conv4"] = "conv4"
    filters: PositiveInt = 64
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["batch", "support"] = "batch"


ModelConfig = Annotated[MlpConfig | Conv4Config, Field(discriminator="kind")]
