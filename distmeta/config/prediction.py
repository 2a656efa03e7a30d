"""Learners that predict parameters from the support set, by a network of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from distmeta.config.black_box import Layers, Width
from distmeta.config.bounds import Text
from distmeta.config.closed_form import ClosedFormConfig


class GeneratorConfig(ClosedFormConfig):
    """Predict the weights of each class from the mean of its support features (Qiao et al. 2018).

    Attributes:
        layers: Layers of the generator.
        width: Numbers in its hidden layers.
        scale: Factor of the logits at first; it is learned.
    """

    kind: Literal["generator"] = "generator"
    layers: Layers = 2
    width: Width = 256
    scale: PositiveFloat = 10.0

    needs_classes: ClassVar[bool] = True


class FilmConfig(ClosedFormConfig):
    """Scale and shift every layer of the network by numbers predicted from the support set (CNAPs, Requeima et al.
    2019). Classes are told apart by distance to class means of the modulated features; regression goes through the
    network's head.

    Attributes:
        layers: Layers of the encoder of support examples.
        width: Numbers in its layers, and in the representation of a task.
        groups: Parameter groups whose layers are modulated; None takes `norm` where the network has such a group, else
            `all` (for classification without the head, which is not used).
        scale: Factor of the squared distances to class means.
    """

    kind: Literal["film"] = "film"
    layers: Layers = 2
    width: Width = 64
    groups: tuple[Text, ...] | None = Field(None, min_length=1, max_length=1000)
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = False
