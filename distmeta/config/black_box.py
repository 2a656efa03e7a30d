"""Learners that read the support set with a network of their own: black boxes, adapted by their activations alone."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from distmeta.config.closed_form import ClosedFormConfig

Width = Annotated[int, Field(gt=0, le=4096)]
Layers = Annotated[int, Field(gt=0, le=32)]


class _BlackBox(ClosedFormConfig):
    """What all of them declare. Every output has weights of its own, so the tasks must keep their number."""

    needs_classes: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = True


class LstmConfig(_BlackBox):
    """An LSTM reads the support set one example after another, each with the label of the one before (Hochreiter et al.
    2001; Santoro et al. 2016). Head `sequence` has the prediction for each support example before its label was read.

    Attributes:
        width: Numbers in the hidden state of a layer.
        layers: Layers.
    """

    kind: Literal["lstm"] = "lstm"
    width: Width = 128
    layers: Layers = 1


class NeuralProcessConfig(_BlackBox):
    """Conditional neural process (Garnelo et al. 2018): the mean of encoded support examples conditions a decoder. For
    regression, head `distribution` has mean and standard deviation, which objective `gaussian` scores.

    Attributes:
        width: Numbers in a representation, and in hidden layers.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        least_deviation: Bound of the standard deviation from below, for targets of size 1.
    """

    kind: Literal["neural_process"] = "neural_process"
    width: Width = 128
    encoder_layers: Layers = 3
    decoder_layers: Layers = 5
    least_deviation: PositiveFloat = Field(0.1, lt=1.0)


class InContextConfig(_BlackBox):
    """A transformer reads labelled support examples and queries as tokens; all tokens attend to the support set.

    Attributes:
        width: Numbers in a token.
        layers: Blocks of attention and two fully connected layers.
        attention_heads: Heads of the attention.
        hidden: Numbers in the hidden layer of a block; None takes four times `width`.
    """

    kind: Literal["in_context"] = "in_context"
    width: Width = 64
    layers: Layers = 2
    attention_heads: Annotated[int, Field(gt=0, le=4096)] = 4
    hidden: Width | None = None

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.attention_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of attention_heads {self.attention_heads}; allowed: one that is"
            )
        return self
