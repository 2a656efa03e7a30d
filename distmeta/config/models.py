"""Networks. The tasks set their input shape and number of outputs."""

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
        downsample: Strided convolutions (`stride`: Omniglot in the MAML paper) or 2x2 max pooling (`pool`).
        norm: Statistics of batch norm: those of the batch itself (`batch`: transductive on a query batch), or those of
            the support set (`support`: inductive; the prediction for a query never depends on other queries).
    """

    kind: Literal["conv4"] = "conv4"
    filters: PositiveInt = 64
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["batch", "support"] = "batch"


ModelConfig = Annotated[MlpConfig | Conv4Config, Field(discriminator="kind")]
