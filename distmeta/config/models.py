"""Networks. The tasks set their input shape and number of outputs."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import MAX_PARAMETERS, PositiveCount
from distmeta.config.python import PythonModel

Width = Annotated[int, Field(gt=0, le=4096)]


class MlpConfig(Frozen):
    """Fully connected network with ReLU.

    Attributes:
        hidden: Widths of the hidden layers.
    """

    kind: Literal["mlp"] = "mlp"
    needs_images: ClassVar[bool] = False
    has_frozen: ClassVar[bool] = False
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
    has_frozen: ClassVar[bool] = False
    filters: int = Field(64, gt=0, le=4096)
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["batch", "support"] = "batch"


class ResNet12Config(Frozen):
    """Four residual blocks of three 3x3 convolutions (Oreshkin et al. 2018; Lee et al. 2019).

    Attributes:
        widths: Channels of the blocks.
        dropout: Probability with which entries after each block are zeroed in training.
        norm: Batch norm at evaluation: with running statistics, so that predictions are inductive (`running`), or with
            those of the batch (`batch`). Training uses those of the batch.
    """

    kind: Literal["resnet12"] = "resnet12"
    widths: tuple[Width, Width, Width, Width] = (64, 128, 256, 512)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    norm: Literal["running", "batch"] = "running"
    needs_images: ClassVar[bool] = True
    has_frozen: ClassVar[bool] = False


ModelConfig = Annotated[
    Annotated[MlpConfig | Conv4Config | ResNet12Config | PythonModel, Field(discriminator="kind")],
    BeforeValidator(PythonModel.of),
]
