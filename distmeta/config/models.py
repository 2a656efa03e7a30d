"""Networks. The tasks set their input shape and number of outputs."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import MAX_PARAMETERS, PositiveCount


class MlpConfig(Frozen):
    """Fully connected network with ReLU.

    Attributes:
        hidden: Widths of the hidden layers.
    """

    kind: Literal["mlp"] = "mlp"
    needs_images: ClassVar[bool] = False
    hidden: tuple[PositiveCount, ...] = Field((40, 40), max_length=1000)

    def count_parameters(self, num_inputs: int, num_outputs: int) -> int:
        """Weights and biases of the network."""
        sizes = (num_inputs, *self.hidden, num_outputs)
        return sum(fan_in * fan_out + fan_out for fan_in, fan_out in itertools.pairwise(sizes))

    @model_validator(mode="after")
    def _is_of_a_possible_size(self) -> Self:
        if (count := self.count_parameters(1, 1)) > MAX_PARAMETERS:
            raise ValueError(f"hidden makes {count} parameters or more; allowed: at most {MAX_PARAMETERS}")
        return self


class Conv4Config(Frozen):
    """Four blocks of 3x3 convolution, batch norm, ReLU (Vinyals et al. 2016).

    Attributes:
        filters: Channels of every block.
        downsample: Strided convolutions (`stride`: Omniglot in the MAML paper) or 2x2 max pooling (`pool`).
        norm: Statistics of batch norm: those of the batch itself (`batch`: transductive on a query batch), or those of
            the support set (`support`: inductive; the prediction for a query never depends on other queries).
    """

    kind: Literal["conv4"] = "conv4"
    needs_images: ClassVar[bool] = True
    filters: int = Field(64, gt=0, le=4096)
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["batch", "support"] = "batch"


ModelConfig = Annotated[MlpConfig | Conv4Config, Field(discriminator="kind")]
